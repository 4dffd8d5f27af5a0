"""A database that lost its last commits, as after a failover to a standby that lagged: its checkpoints go back."""

import pytest

from event_stream.event_types import partition_of
from tests.support.driving import append, checkpoints, drain_all
from tests.support.events import TENANT, event
from workers.dispatch.trimmer import Trimmer
from workers.runtime import Runtime

HOME = partition_of(TENANT, 4)


@pytest.mark.first
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_entries_that_it_must_read_again_are_not_trimmed_however_long_it_takes(runtime: Runtime) -> None:
    """It answers reads for minutes before a drain can write: the dispatcher remembers what is no longer true."""
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    gone_back_to = checkpoints(runtime)
    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    trimmer.note(checkpoints(runtime))
    for now[0] in (61.0, 122.0, 183.0):
        trimmer.note(gone_back_to)
    left = runtime.stream.read_from(HOME, gone_back_to[HOME].position, 1000).entries
    assert len(left) == 301  # the checkpoint's own among them
    assert runtime.stream.redis.xlen(f"events:{{{HOME}}}") < 600  # while what lies before it was trimmed
