"""A state machine drives the real drain through random appends, crashes, zombies, replays and losses.

After every step the product's counters must match those of Redis and of a reference model. At the end everything is
drained, and every answer must equal the oracle's.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.event import listen

from event_stream.events.event import partition_of
from tests.state_machine.actors import FAILING_TENANT, PARTITIONS, PROJECTS
from tests.state_machine.machine import DrainMachine
from tests.support import failpoints
from tests.support.harness import stored_dead_letters
from workers.runtime import Runtime


@pytest.fixture
def failpoints_installed() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        failpoints.install_failpoints(patch)
        yield


@pytest.fixture
def quick(runtime: Runtime) -> Iterator[Runtime]:
    """Servers that trim even short streams and never wait for a disk, because no machine crashes here."""
    redis = runtime.stream.redis
    redis.config_set("stream-node-max-entries", 3)
    redis.config_set("appendfsync", "no")
    if runtime.writer.dialect.name == "sqlite":
        listen(runtime.writer, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        runtime.writer.dispose()
    yield runtime
    redis.config_set("stream-node-max-entries", 100)
    redis.config_set("appendfsync", "always")


@pytest.mark.usefixtures("failpoints_installed")
def test_counters_and_answers_match_the_reference_model_for_any_sequence_of_faults(quick: Runtime) -> None:
    on_sqlite = quick.writer.dialect.name == "sqlite"
    happened: Counter[str] = Counter()
    run_state_machine_as_test(
        cast("type[DrainMachine]", lambda: DrainMachine(quick, happened)),
        settings=settings(
            max_examples=25 if on_sqlite else 8,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.reuse, Phase.generate, Phase.shrink],
        ),
    )
    print(happened)
    assert happened["examples"] > 0
    assert happened["answers"] > 0


@pytest.mark.first
@pytest.mark.usefixtures("failpoints_installed")
def test_every_fault_of_the_state_machine_happens(quick: Runtime) -> None:
    happened: Counter[str] = Counter()
    machine = DrainMachine(quick, happened)
    values: dict[str, Any] = {"kind": "analysis.created.v1", "tenant": FAILING_TENANT, "project": PROJECTS[0]}
    values |= {"days_ago": 1, "stamp": 1, "choice": 1}
    owner = partition_of(FAILING_TENANT, PARTITIONS)
    # The same on SQLite and PostgreSQL, and independent of the seed.
    machine.flood(values, 20)
    machine.crash(0, 0, ("inside accept", 1))
    machine.step(1, 0)
    machine.stall(0, "after read", 4)
    machine.drain(0, owner)
    machine.resume(0)
    machine.counters_match()
    machine.a_minute_passes()
    machine.flood(values, 20)
    machine.drain(0, owner)
    machine.counters_match()
    machine.a_minute_passes()
    machine.rewind(owner)
    machine.drain(0, owner)
    machine.counters_match()
    machine.flood(values, 20)
    machine.lose_unread(owner, 5)
    machine.append([values])
    machine.misdirect(0)
    machine.drain(0, (owner + 1) % PARTITIONS)
    machine.counters_match()
    machine.replay("wrong_partition")
    machine.poison(values)
    machine.teardown()
    faults = ["crash", "lease lost", "overtaken zombie", "trimmed", "replaced", "lost", "replay", "answers"]
    assert [fault for fault in faults if not happened[fault]] == []
    assert {dead_letter.reason for dead_letter in stored_dead_letters(quick)} == {"wrong_partition", "fold_failed"}
