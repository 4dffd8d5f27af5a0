"""A database without its last commits, as after a failover to a lagging standby: its checkpoints move back."""

import pytest

from event_stream.events.event import partition_of
from tests.support.events import TENANT, event
from tests.support.harness import append, checkpoints, drain_all
from workers.dispatch.trimmer import Trimmer
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)


@pytest.mark.first
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_entries_that_must_be_read_again_are_not_trimmed_however_long_that_takes(runtime: Runtime) -> None:
    """It serves reads for minutes before a drain can write, and the dispatcher remembers outdated checkpoints."""
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    gone_back_to = checkpoints(runtime)
    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    trimmer.update(checkpoints(runtime))
    for now[0] in (61.0, 122.0, 183.0):
        trimmer.update(gone_back_to)
    left = runtime.stream.read_after(TENANT_PARTITION, gone_back_to[TENANT_PARTITION].position, 1000)
    assert len(left.entries) == 300
    assert left.before_digest  # the checkpoint's own entry
    assert runtime.stream.redis.xlen(f"events:{{{TENANT_PARTITION}}}") < 600  # while entries before it were trimmed
