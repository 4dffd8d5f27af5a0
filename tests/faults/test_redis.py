"""Redis restarts, or loses or replaces stream entries: each event counts once, and lost entries are counted."""

import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.exceptions import RedisError

from event_stream.events.event import partition_of
from event_stream.streams.stream_keys import stream_key
from projections.error_classes import ErrorClass
from tests.support.events import TENANT, body, event
from tests.support.harness import append, checkpoints, drain_all
from tests.support.invariants import CheckpointObserver, assert_counted_once, assert_counters_add_up
from tests.support.servers import RedisServer, wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.drain.batch_size import BatchSize
from workers.drain.drainer import Drainer
from workers.reporting import problems
from workers.reporting.overview import read_overview
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
KEY = stream_key(TENANT_PARTITION)
on_one_database = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def observer(runtime: Runtime) -> CheckpointObserver:
    return CheckpointObserver(runtime)


def some(count: int) -> list[dict[str, Any]]:
    """Return events of one tenant, which are all in one stream."""
    return [event("project.created.v1"), *(event() for _ in range(count - 2)), event("watchdog.evaluated.v1")]


def begin(observer: CheckpointObserver, at_least: int) -> Drainer:
    """Drain the first entries of TENANT_PARTITION in small batches, and stop in the middle."""
    drainer = Drainer(observer.runtime, TENANT_PARTITION, batch_size=BatchSize(count=4))
    while not drainer.last_checkpoint or drainer.last_checkpoint.read < at_least:
        assert not observer.step(drainer)
        drainer.batch_size.count = 4
    return drainer


def finish(observer: CheckpointObserver, drainer: Drainer) -> None:
    """Let the same drain continue to the end with its state, and check that nothing is left."""
    while not observer.step(drainer):
        pass
    observer.drain()


def run_id(runtime: Runtime) -> str:
    return str(runtime.stream.redis.info("server")["run_id"])


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.first
def test_redis_killed_in_the_middle_of_a_drain_comes_back_with_every_entry(
    observer: CheckpointObserver, redis_server: RedisServer
) -> None:
    runtime = observer.runtime
    events = some(300)
    append(runtime, *events)
    before = run_id(runtime)
    drainer = begin(observer, at_least=50)
    redis_server.kill()
    restarting = threading.Timer(0.3, redis_server.start)
    restarting.start()
    while not stepped(observer, drainer):
        drainer.batch_size.count = 10
    restarting.join()
    assert run_id(runtime) != before
    assert_counted_once(runtime, events)
    assert_counters_add_up(runtime)
    assert (checkpoints(runtime)[TENANT_PARTITION].epoch, checkpoints(runtime)[TENANT_PARTITION].lost) == (0, 0)


def stepped(observer: CheckpointObserver, drainer: Drainer) -> bool:
    """Run one step during an outage of Redis; returns whether the end is reached."""
    try:
        return observer.step(drainer)
    except RedisError:
        return False


@pytest.mark.first
@on_one_database
def test_a_redis_that_restarts_empty_continues_with_new_entries(
    observer: CheckpointObserver, redis_server: RedisServer
) -> None:
    runtime = observer.runtime
    read, unread, new = some(40), [event() for _ in range(7)], [event() for _ in range(20)]
    append(runtime, *read)
    observer.drain()
    append(runtime, *unread)
    before = run_id(runtime)
    redis_server.kill()
    redis_server.replace_data()
    redis_server.start()
    assert run_id(runtime) != before
    assert runtime.stream.redis.dbsize() == 0
    assert_counters_add_up(runtime)
    Dispatcher(runtime).sweep()
    runtime.stream.check_partitions()
    assert runtime.stream.redis.get("events:partitions") == b"4"
    append(runtime, *new)
    observer.drain()
    assert_counted_once(runtime, read + new)
    assert_counters_add_up(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 1


# --- streams that lose, or are, something else -----------------------------------------------------------------------


@on_one_database
def test_a_stream_deleted_after_it_was_read_loses_nothing(observer: CheckpointObserver) -> None:
    runtime = observer.runtime
    read, new = some(30), [event() for _ in range(5)]
    append(runtime, *read)
    observer.drain()
    assert runtime.stream.redis.delete(KEY) == 1
    observer.drain()
    assert_counters_add_up(runtime)
    append(runtime, *new)
    observer.drain()
    assert_counted_once(runtime, read + new)
    assert_counters_add_up(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.epoch, at.read, at.lost) == (1, 35, 0)


@on_one_database
def test_entries_appended_after_a_stream_is_deleted_under_a_drain_are_applied(observer: CheckpointObserver) -> None:
    runtime = observer.runtime
    events, new = some(60), [event() for _ in range(25)]
    append(runtime, *events)
    drainer = begin(observer, at_least=20)
    read = checkpoints(runtime)[TENANT_PARTITION].read
    assert runtime.stream.redis.delete(KEY) == 1
    observer.step(drainer)
    append(runtime, *new)
    finish(observer, drainer)
    assert_counted_once(runtime, events[:read] + new)
    assert_counters_add_up(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 1


@on_one_database
def test_a_key_of_another_type_in_place_of_a_stream_is_named_and_stops_no_other_partition(
    observer: CheckpointObserver,
) -> None:
    runtime, redis = observer.runtime, observer.runtime.stream.redis
    elsewhere = next(f"t{number}" for number in range(99) if partition_of(f"t{number}", 4) != TENANT_PARTITION)
    events = some(40)
    theirs = [each | {"id": str(uuid4()), "tenantid": elsewhere} for each in some(8)]
    append(runtime, *events)
    begin(observer, at_least=10)
    read = checkpoints(runtime)[TENANT_PARTITION].read
    now_s = [0.0]
    dispatcher = Dispatcher(runtime)
    dispatcher.trimmer.clock = lambda: now_s[0]
    dispatcher.sweep()
    redis.rename(KEY, "aside")
    redis.set(KEY, "no stream")
    append(runtime, *theirs)
    now_s[0] = 61.0
    assert set(dispatcher.sweep()[1]) == {TENANT_PARTITION, partition_of(elsewhere, 4)}
    redis.delete(*redis.scan_iter("projector:drain-lease:*"))  # as if the enqueued drains had died
    drain_all(runtime, budget_s=5)
    assert_counted_once(runtime, events[:read] + theirs)
    found = read_overview(runtime)
    owner, failure = found.partitions[TENANT_PARTITION], found.partitions[TENANT_PARTITION].failure
    assert (owner.lost, owner.in_flight, checkpoints(runtime)[TENANT_PARTITION].lost) == (0, 40 - read, 0)
    assert failure is not None
    assert (failure.fault, f"RENAME <its name now> '{KEY}'" in failure.error) == (ErrorClass.EXTERNAL, True)
    assert [each.startswith(f"partition {TENANT_PARTITION} failed") for each in problems.failing_partitions(found)] == [
        True
    ]
    redis.rename("aside", KEY)
    wait_until(lambda: not redis.exists(f"projector:drain-lease:{{{TENANT_PARTITION}}}"), "the drain's pause ends")
    observer.drain()
    assert_counted_once(runtime, events + theirs)
    assert_counters_add_up(runtime)


@pytest.mark.first
@on_one_database
def test_entries_trimmed_unread_under_a_drain_are_counted_as_lost(observer: CheckpointObserver) -> None:
    runtime = observer.runtime
    events, new = some(80), [event() for _ in range(5)]
    append(runtime, *events)
    drainer = begin(observer, at_least=20)
    read = checkpoints(runtime)[TENANT_PARTITION].read
    runtime.stream.redis.xtrim(KEY, maxlen=30, approximate=False)
    finish(observer, drainer)
    append(runtime, *new)
    finish(observer, drainer)
    assert_counted_once(runtime, events[:read] + events[-30:] + new)
    assert_counters_add_up(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].lost == 80 - 30 - read


@on_one_database
def test_entries_deleted_in_the_middle_of_a_backlog_are_counted_as_lost(observer: CheckpointObserver) -> None:
    runtime = observer.runtime
    events = some(60)
    appended = append(runtime, *events)
    drainer = begin(observer, at_least=20)
    gone = range(40, 47)
    assert runtime.stream.redis.xdel(KEY, *(str(appended[number].position) for number in gone)) == 7
    finish(observer, drainer)
    assert_counted_once(runtime, [each for number, each in enumerate(events) if number not in gone])
    assert_counters_add_up(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.epoch, at.lost) == (0, 7)


@pytest.mark.first
@on_one_database
@pytest.mark.parametrize("unread", [0, 6])
def test_a_redis_restored_from_an_older_copy_is_read_again_and_each_event_counts_once(
    observer: CheckpointObserver, redis_server: RedisServer, tmp_path: Path, unread: int
) -> None:
    """With `unread` the copy has entries that were unread when it was made."""
    runtime = observer.runtime
    older, late, newer, after = some(20), [event() for _ in range(unread)], some(15), [event() for _ in range(10)]
    append(runtime, *older)
    observer.drain()
    append(runtime, *late)
    redis_server.kill()
    redis_server.copy_data(tmp_path / "copy")
    redis_server.start()
    append(runtime, *newer)
    observer.drain()
    redis_server.kill()
    redis_server.replace_data(tmp_path / "copy")
    redis_server.start()
    assert runtime.stream.ends()[TENANT_PARTITION].added == 20 + unread
    append(runtime, *after)
    observer.drain()
    assert_counted_once(runtime, older + late + newer + after)
    assert_counters_add_up(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.epoch, at.duplicates, at.lost) == (1, 20 + unread, 0)


@on_one_database
@pytest.mark.parametrize("in_the_middle", [True, False])
@pytest.mark.parametrize("away_ms", [-100_000, 100_000])
def test_a_stream_replaced_by_one_with_lower_or_higher_ids_is_read_from_its_start(
    observer: CheckpointObserver, away_ms: int, in_the_middle: bool
) -> None:
    runtime = observer.runtime
    events, others = some(40), some(50)
    append(runtime, *events)
    drainer = begin(observer, at_least=20)
    if not in_the_middle:
        finish(observer, drainer)
    at = checkpoints(runtime)[TENANT_PARTITION]
    with runtime.stream.redis.pipeline(transaction=True) as pipe:
        pipe.delete(KEY)
        for number, each in enumerate(others):
            pipe.xadd(KEY, {"event": body(each)}, id=f"{at.position.ms + away_ms + number}-0")
        pipe.execute()
    finish(observer, drainer)
    assert_counted_once(runtime, events[: at.read] + others)
    assert_counters_add_up(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 1
