"""Entry ids that are ahead of the clock: no stall hides behind them, and the run book's way out loses nothing."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from event_stream import Producer
from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from monitoring.health import projector_health
from tests.support.events import TENANT, body, event
from tests.support.harness import append, checkpoints, drain_all, totals
from tests.support.invariants import assert_fully_projected
from tests.support.metrics_scrape import scrape
from tests.support.processes import Start
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import HEARTBEAT_FIELD, create_worker
from workers.reporting import problems, status_reader
from workers.reporting.heartbeats import read_dispatchers, read_workers
from workers.reporting.overview import read_overview
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
KEY = f"events:{{{TENANT_PARTITION}}}"
LARGEST = f"{2**64 - 1}-{2**64 - 1}"
FAR_AHEAD = "9999999999999-0"
DAY_MS = 86_400_000
STALLED_AFTER_S = 1.0
RUN_BOOK = Path(__file__).parents[2] / "docs" / "how-to" / "run-book.md"
pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def alive(runtime: Runtime) -> Runtime:
    """A deployment whose processes have just sent heartbeats."""
    Dispatcher(runtime).sweep()
    create_worker(runtime).register_birth()  # type: ignore[no-untyped-call]
    return runtime


def drain(runtime: Runtime) -> None:
    """Drain all partitions in this process, although a dispatcher may have enqueued drains for workers."""
    for partition in range(4):
        runtime.queue.connection.delete(f"projector:drain-lease:{{{partition}}}")
    drain_all(runtime)


def append_with_id(runtime: Runtime, entry_id: str, made: dict[str, Any]) -> None:
    runtime.stream.redis.xadd(KEY, {"event": body(made)}, id=entry_id)


@pytest.mark.first
def test_a_stream_that_has_given_its_largest_id_is_an_error_of_health_and_the_run_book_starts_a_new_one(
    alive: Runtime,
) -> None:
    made = [event("project.created.v1"), event(), event()]
    append(alive, made[0])
    drain(alive)
    assert projector_health(alive).errors == []
    append_with_id(alive, LARGEST, made[1])
    drain(alive)
    with pytest.raises(ResponseError, match=r"exhausted|equal or smaller"):
        append(alive, made[2])
    (said,) = projector_health(alive).errors
    assert said.startswith(f"partition {TENANT_PARTITION} accepts no more entries, because its stream has given")
    assert read_overview(alive).health == "failing"
    assert scrape(alive)("projector_entry_ids_exhausted", partition=str(TENANT_PARTITION)) == 1
    alive.stream.redis.xdel(KEY, LARGEST)  # Redis remembers the id also without its entry
    assert projector_health(alive).errors == [said]
    follow_run_book(alive)
    append(alive, made[2])
    assert not is_projected(alive)
    drain(alive)
    assert projector_health(alive).errors == []
    assert checkpoints(alive)[TENANT_PARTITION].epoch == 1
    assert assert_fully_projected(alive, made)["lost"] == 0


def is_projected(runtime: Runtime) -> bool:
    """Whether a producer that waits for the stream's last entry would be told that it is projected."""
    position = runtime.stream.ends()[TENANT_PARTITION].position
    assert position is not None
    return runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION].position >= position


def follow_run_book(runtime: Runtime) -> None:
    """Run the commands of the run book for partition 3 on this partition, as they are written there."""
    section = RUN_BOOK.read_text().split("### Entry ids are ahead of the clock\n")[1].split("\n### ")[0]
    script = "\n".join(re.findall(r"```sh\n(.*?)```", section, re.DOTALL))
    position = read_status(runtime).partitions[TENANT_PARTITION].position
    script = script.replace("{3}", f"{{{TENANT_PARTITION}}}").replace("<position>", position)
    commands = [shlex.split(line, comments=True) for line in script.splitlines() if line.startswith("redis-cli ")]
    assert [command[1] for command in commands] == ["RENAME", "DEL", "XRANGE", "DEL"]
    redis: Any = runtime.stream.redis
    for command in commands:
        if "XRANGE" in command and LARGEST in position:
            continue  # as the run book says: nothing can follow
        reply = redis.execute_command(*command[1:])
        assert command[1] != "XRANGE" or reply == []


@pytest.mark.first
def test_entries_with_ids_ahead_of_the_clock_are_a_warning_until_a_new_stream_replaces_theirs(alive: Runtime) -> None:
    made = [event("project.created.v1"), event(), event(), event()]
    append_with_id(alive, FAR_AHEAD, made[0])
    append(alive, made[1])  # Redis counts on from the id that is ahead
    drain(alive)
    assert projector_health(alive).errors == []
    (said,) = projector_health(alive).warnings
    assert re.match(
        rf"partition {TENANT_PARTITION} gives ids that are \d[\d,]+ s ahead of the database's clock; ", said
    )
    ahead_s = scrape(alive)("projector_entry_ids_ahead_seconds", partition=str(TENANT_PARTITION))
    assert 8_000_000_000 < ahead_s < 8_300_000_000
    append(alive, made[2])
    drain(alive)
    follow_run_book(alive)
    append(alive, made[3])
    found = read_status(alive).partitions[TENANT_PARTITION]
    assert (found.lag_entries, found.lost) == (1, 0)
    assert 0 < found.lag_s < 60
    assert not is_projected(alive)
    drain(alive)
    assert problems.all_problems(read_status(alive)) == []
    assert assert_fully_projected(alive, made)["lost"] == 0


@pytest.mark.first
@pytest.mark.parametrize("ahead", [FAR_AHEAD, "a day"])
def test_a_partition_that_does_not_move_is_stalled_whatever_the_ids_of_its_entries_say(
    alive: Runtime, ahead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_reader, "STALLED_AFTER_S", STALLED_AFTER_S)
    first_id = ahead if ahead == FAR_AHEAD else f"{alive.stream.now_ms() + DAY_MS}-0"
    append_with_id(alive, first_id, event("project.created.v1"))
    append(alive, *(event() for _ in range(99)))
    dispatcher = Dispatcher(alive)
    dispatcher.sweep()
    first = read_status(alive).partitions[TENANT_PARTITION]
    assert (first.lag_entries, first.stalled) == (100, False)
    assert 0 < first.lag_s < 30

    def is_stalled() -> bool:
        Dispatcher(alive).sweep()  # a new one each time: a restart forgets nothing
        return read_status(alive).partitions[TENANT_PARTITION].stalled

    wait_until(is_stalled, "the partition is stalled", 30)
    (stalled,) = projector_health(alive).errors
    assert stalled.startswith(f"partition {TENANT_PARTITION} is stalled, 100 entries and ")
    assert read_status(alive).partitions[TENANT_PARTITION].lag_s > STALLED_AFTER_S
    assert read_overview(alive).tenants.by_lag[0].lag_s > STALLED_AFTER_S
    drain(alive)
    assert not is_stalled()
    assert read_status(alive).partitions[TENANT_PARTITION].lag_s == 0


@pytest.mark.first
def test_a_backlog_that_moves_is_not_stalled_however_long_it_takes(
    alive: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_reader, "STALLED_AFTER_S", 0.0)
    append_with_id(alive, FAR_AHEAD, event("project.created.v1"))
    append(alive, event(), event())
    Dispatcher(alive).sweep()
    wait_until(lambda: read_status(alive).partitions[TENANT_PARTITION].stalled, "it waits", 30)
    drain(alive)
    append(alive, event())
    assert not read_status(alive).partitions[TENANT_PARTITION].stalled  # what was recorded is of another checkpoint
    Dispatcher(alive).sweep()
    drain(alive)
    Dispatcher(alive).sweep()
    assert alive.queue.connection.hgetall("projector:waiting-since") == {}


@pytest.mark.first
def test_entries_of_a_stream_that_replaced_another_wait_visibly(alive: Runtime) -> None:
    append(alive, *(event() for _ in range(20)))
    drain(alive)
    long_ago_ms = alive.stream.now_ms() - 600_000
    alive.stream.redis.delete(KEY)
    for number in range(5):
        append_with_id(alive, f"{long_ago_ms}-{number}", event(time=format_time(long_ago_ms * 1000)))
    alive.queue.connection.delete(f"projector:recent-progress:{{{TENANT_PARTITION}}}")  # as 30 s after the last commit
    found = read_status(alive).partitions[TENANT_PARTITION]
    assert (found.lag_entries, found.stalled, found.lost) == (5, True, 0)
    assert 599 < found.lag_s < 660
    assert found.added == found.read + found.in_flight + found.lost == 25
    drain(alive)
    assert totals(alive) == {"read": 25, "applied": 25, "duplicates": 0, "dead_lettered": 0, "lost": 0}


@pytest.mark.first
def test_a_heartbeat_from_a_clock_that_was_ahead_is_no_sign_of_life(alive: Runtime) -> None:
    """Redis's clock was a day ahead when both ended."""
    connection: Any = alive.queue.connection
    later_ms = alive.stream.now_ms() + DAY_MS
    (dead,) = read_dispatchers(alive)
    connection.zadd("projector:dispatcher-heartbeats", {dead.name: later_ms})
    (worker,) = read_workers(alive)
    connection.hset(f"rq:worker:{worker.name}", HEARTBEAT_FIELD, later_ms)
    assert projector_health(alive).errors == [
        "no dispatcher is alive; start `projector dispatcher`",
        "no worker is alive; start `projector worker`",
    ]
    living = Dispatcher(alive)
    living.sweep()
    assert [each.name for each in read_dispatchers(alive)] == [living.name]


@pytest.mark.fleet
def test_processes_serve_the_largest_id_and_the_stream_that_replaces_it(runtime: Runtime, start: Start) -> None:
    """The dispatcher listens at the largest id, a worker reads after it, and the new stream is read from its start."""
    start("cli", "dispatcher")
    start("cli", "worker")
    made = [event("project.created.v1"), event(), event()]
    append(runtime, made[0])
    append_with_id(runtime, LARGEST, made[1])
    wait_until(lambda: totals(runtime)["read"] == 2, "both are projected", 90)
    follow_run_book(runtime)
    producer = Producer(runtime.stream, runtime.settings)
    producer.wait_until_projected(producer.append(made[2]), timeout_s=60)
    assert assert_fully_projected(runtime, made)["lost"] == 0
