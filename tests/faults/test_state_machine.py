"""A state machine drives the real drain through random appends, deaths, zombies, replays and losses.

After every step the books have to balance: the product's counters, Redis's own, and a ledger that was told what every
entry is. At the end the dispatcher rings until nothing is left, and every answer has to be the oracle's.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.event import listen

from event_stream.event_types import partition_of
from tests.machine.drains import Drains
from tests.machine.parts import PARTITIONS, PROJECTS, PRONE
from tests.support import points
from tests.support.driving import letters
from workers.runtime import Runtime


@pytest.fixture
def told_points() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        points.install(patch)
        yield


@pytest.fixture
def quick(runtime: Runtime) -> Iterator[Runtime]:
    """Servers that trim even short streams and never wait for a disk: no machine dies here."""
    redis = runtime.stream.redis
    redis.config_set("stream-node-max-entries", 3)
    redis.config_set("appendfsync", "no")
    if runtime.writer.dialect.name == "sqlite":
        listen(runtime.writer, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
        runtime.writer.dispose()
    yield runtime
    redis.config_set("stream-node-max-entries", 100)
    redis.config_set("appendfsync", "always")


@pytest.mark.usefixtures("told_points")
def test_the_books_balance_whatever_happens_in_whatever_order(quick: Runtime) -> None:
    on_sqlite = quick.writer.dialect.name == "sqlite"
    happened: Counter[str] = Counter()
    run_state_machine_as_test(
        cast("type[Drains]", lambda: Drains(quick, happened)),
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
@pytest.mark.usefixtures("told_points")
def test_every_fault_of_the_machine_really_happens(quick: Runtime) -> None:
    happened: Counter[str] = Counter()
    machine = Drains(quick, happened)
    fact: dict[str, Any] = {"kind": "analysis.created.v1", "tenant": PRONE, "project": PROJECTS[0]}
    fact |= {"days_ago": 1, "stamp": 1, "choice": 1}
    home = partition_of(PRONE, PARTITIONS)
    # On SQLite and PostgreSQL alike, and whatever the seed.
    machine.flood(fact, 20)
    machine.die(0, 0, ("inside accept", 1))
    machine.step(1, 0)
    machine.stall(0, "after read", 4)
    machine.drain(0, home)
    machine.wake(0)
    machine.the_books_balance()
    machine.a_minute_passes()
    machine.flood(fact, 20)
    machine.drain(0, home)
    machine.the_books_balance()
    machine.a_minute_passes()
    machine.rewind(home)
    machine.drain(0, home)
    machine.the_books_balance()
    machine.flood(fact, 20)
    machine.lose_unread(home, 5)
    machine.append([fact])
    machine.misdirect(0)
    machine.drain(0, (home + 1) % PARTITIONS)
    machine.the_books_balance()
    machine.replay("wrong_partition")
    machine.poison(fact)
    machine.teardown()
    faults = ["death", "lease lost", "overtaken zombie", "trimmed", "exchanged", "lost", "replay", "answers"]
    assert [fault for fault in faults if not happened[fault]] == []
    assert {letter.reason for letter in letters(quick)} == {"wrong_partition", "fold_failed"}
