"""Redis restarts, forgets, loses or swaps what a stream holds: each event counts once, and what is lost is counted."""

import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis.exceptions import RedisError

from event_stream.event_types import partition_of
from event_stream.stream import stream_key
from projections.error_classes import ErrorClass
from tests.support.driving import append, checkpoints, drain_all
from tests.support.events import TENANT, body, event
from tests.support.law import Witness, assert_counted_once, assert_law
from tests.support.servers import RedisServer, wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.drain.batch_size import BatchSize
from workers.drain.drainer import Drainer
from workers.reporting.overview import read_overview
from workers.runtime import Runtime

HOME = partition_of(TENANT, 4)
KEY = stream_key(HOME)
on_one_database = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def witness(runtime: Runtime) -> Witness:
    return Witness(runtime)


def some(count: int) -> list[dict[str, Any]]:
    """Return events of one tenant, so that they lie in one stream."""
    return [event("project.created.v1"), *(event() for _ in range(count - 2)), event("watchdog.evaluated.v1")]


def begin(witness: Witness, at_least: int) -> Drainer:
    """Drain the first entries of HOME, in small batches, and stop in the middle."""
    drainer = Drainer(witness.runtime, HOME, pace=BatchSize(count=4))
    while not drainer.at or drainer.at.read < at_least:
        assert not witness.step(drainer)
        drainer.pace.count = 4
    return drainer


def finish(witness: Witness, drainer: Drainer) -> None:
    """Let the same drain, with what it remembers, go on to the end; and see that it was the end."""
    while not witness.step(drainer):
        pass
    witness.drain()


def run_id(runtime: Runtime) -> str:
    return str(runtime.stream.redis.info("server")["run_id"])


# --- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.first
def test_redis_killed_in_the_middle_of_a_drain_comes_back_with_every_entry(
    witness: Witness, redis_server: RedisServer
) -> None:
    runtime = witness.runtime
    events = some(300)
    append(runtime, *events)
    before = run_id(runtime)
    drainer = begin(witness, at_least=50)
    redis_server.kill()
    restarting = threading.Timer(0.3, redis_server.start)
    restarting.start()
    while not stepped(witness, drainer):
        drainer.pace.count = 10
    restarting.join()
    assert run_id(runtime) != before
    assert_counted_once(runtime, events)
    assert_law(runtime)
    assert (checkpoints(runtime)[HOME].epoch, checkpoints(runtime)[HOME].lost) == (0, 0)


def stepped(witness: Witness, drainer: Drainer) -> bool:
    """Step through an outage of Redis; returns whether the end is reached."""
    try:
        return witness.step(drainer)
    except RedisError:
        return False


@pytest.mark.first
@on_one_database
def test_a_redis_that_comes_back_with_nothing_goes_on_with_what_is_new(
    witness: Witness, redis_server: RedisServer
) -> None:
    runtime = witness.runtime
    read, unread, new = some(40), [event() for _ in range(7)], [event() for _ in range(20)]
    append(runtime, *read)
    witness.drain()
    append(runtime, *unread)
    before = run_id(runtime)
    redis_server.kill()
    redis_server.replace_data()
    redis_server.start()
    assert run_id(runtime) != before
    assert runtime.stream.redis.dbsize() == 0
    assert_law(runtime)
    Dispatcher(runtime).sweep()
    runtime.stream.check_partitions()
    assert runtime.stream.redis.get("events:partitions") == b"4"
    append(runtime, *new)
    witness.drain()
    assert_counted_once(runtime, read + new)
    assert_law(runtime)
    assert checkpoints(runtime)[HOME].epoch == 1


# --- streams that lose, or are, something else -----------------------------------------------------------------------


@on_one_database
def test_a_stream_deleted_after_it_was_read_lost_nothing(witness: Witness) -> None:
    runtime = witness.runtime
    read, new = some(30), [event() for _ in range(5)]
    append(runtime, *read)
    witness.drain()
    assert runtime.stream.redis.delete(KEY) == 1
    witness.drain()
    assert_law(runtime)
    append(runtime, *new)
    witness.drain()
    assert_counted_once(runtime, read + new)
    assert_law(runtime)
    at = checkpoints(runtime)[HOME]
    assert (at.epoch, at.read, at.lost) == (1, 35, 0)


@on_one_database
def test_a_stream_deleted_under_a_drain_stops_nothing_that_comes_after(witness: Witness) -> None:
    runtime = witness.runtime
    events, new = some(60), [event() for _ in range(25)]
    append(runtime, *events)
    drainer = begin(witness, at_least=20)
    read = checkpoints(runtime)[HOME].read
    assert runtime.stream.redis.delete(KEY) == 1
    witness.step(drainer)
    append(runtime, *new)
    finish(witness, drainer)
    assert_counted_once(runtime, events[:read] + new)
    assert_law(runtime)
    assert checkpoints(runtime)[HOME].epoch == 1


@on_one_database
def test_something_else_in_a_streams_place_is_named_and_stops_no_other_partition(witness: Witness) -> None:
    runtime, redis = witness.runtime, witness.runtime.stream.redis
    elsewhere = next(f"t{number}" for number in range(99) if partition_of(f"t{number}", 4) != HOME)
    events = some(40)
    theirs = [each | {"id": str(uuid4()), "tenantid": elsewhere} for each in some(8)]
    append(runtime, *events)
    begin(witness, at_least=10)
    read = checkpoints(runtime)[HOME].read
    now_s = [0.0]
    dispatcher = Dispatcher(runtime)
    dispatcher.trimmer.clock = lambda: now_s[0]
    dispatcher.sweep()
    redis.rename(KEY, "aside")
    redis.set(KEY, "no stream")
    append(runtime, *theirs)
    now_s[0] = 61.0
    assert set(dispatcher.sweep()[1]) == {HOME, partition_of(elsewhere, 4)}
    redis.delete(*redis.scan_iter("projector:drain-lease:*"))  # as if the drains that were rung for had died
    drain_all(runtime, budget_s=5)
    assert_counted_once(runtime, events[:read] + theirs)
    found = read_overview(runtime)
    home, failure = found.partitions[HOME], found.partitions[HOME].failure
    assert (home.lost, home.in_flight, checkpoints(runtime)[HOME].lost) == (0, 40 - read, 0)
    assert failure is not None
    assert (failure.fault, f"RENAME <its name> '{KEY}'" in failure.error) == (ErrorClass.EXTERNAL, True)
    assert [each.startswith(f"partition {HOME} failed") for each in found.failing()] == [True]
    redis.rename("aside", KEY)
    wait_until(lambda: not redis.exists(f"projector:drain-lease:{{{HOME}}}"), "the drain's pause is over")
    witness.drain()
    assert_counted_once(runtime, events + theirs)
    assert_law(runtime)


@pytest.mark.first
@on_one_database
def test_entries_trimmed_unread_under_a_drain_are_counted_as_lost(witness: Witness) -> None:
    runtime = witness.runtime
    events, new = some(80), [event() for _ in range(5)]
    append(runtime, *events)
    drainer = begin(witness, at_least=20)
    read = checkpoints(runtime)[HOME].read
    runtime.stream.redis.xtrim(KEY, maxlen=30, approximate=False)
    finish(witness, drainer)
    append(runtime, *new)
    finish(witness, drainer)
    assert_counted_once(runtime, events[:read] + events[-30:] + new)
    assert_law(runtime)
    assert checkpoints(runtime)[HOME].lost == 80 - 30 - read


@on_one_database
def test_entries_deleted_in_the_middle_of_a_backlog_are_counted_as_lost(witness: Witness) -> None:
    runtime = witness.runtime
    events = some(60)
    appended = append(runtime, *events)
    drainer = begin(witness, at_least=20)
    gone = range(40, 47)
    assert runtime.stream.redis.xdel(KEY, *(str(appended[number].position) for number in gone)) == 7
    finish(witness, drainer)
    assert_counted_once(runtime, [each for number, each in enumerate(events) if number not in gone])
    assert_law(runtime)
    at = checkpoints(runtime)[HOME]
    assert (at.epoch, at.lost) == (0, 7)


@pytest.mark.first
@on_one_database
@pytest.mark.parametrize("unread", [0, 6])
def test_a_redis_restored_from_an_older_copy_is_read_again_and_counted_once(
    witness: Witness, redis_server: RedisServer, tmp_path: Path, unread: int
) -> None:
    """With `unread` the copy holds entries that had not been read when it was made."""
    runtime = witness.runtime
    older, late, newer, after = some(20), [event() for _ in range(unread)], some(15), [event() for _ in range(10)]
    append(runtime, *older)
    witness.drain()
    append(runtime, *late)
    redis_server.kill()
    redis_server.copy_data(tmp_path / "copy")
    redis_server.start()
    append(runtime, *newer)
    witness.drain()
    redis_server.kill()
    redis_server.replace_data(tmp_path / "copy")
    redis_server.start()
    assert runtime.stream.ends()[HOME].added == 20 + unread
    append(runtime, *after)
    witness.drain()
    assert_counted_once(runtime, older + late + newer + after)
    assert_law(runtime)
    at = checkpoints(runtime)[HOME]
    assert (at.epoch, at.duplicates, at.lost) == (1, 20 + unread, 0)


@on_one_database
@pytest.mark.parametrize("in_the_middle", [True, False])
@pytest.mark.parametrize("away_ms", [-100_000, 100_000])
def test_a_stream_replaced_by_one_with_lower_or_higher_ids_is_read_from_its_start(
    witness: Witness, away_ms: int, in_the_middle: bool
) -> None:
    runtime = witness.runtime
    events, others = some(40), some(50)
    append(runtime, *events)
    drainer = begin(witness, at_least=20)
    if not in_the_middle:
        finish(witness, drainer)
    at = checkpoints(runtime)[HOME]
    with runtime.stream.redis.pipeline(transaction=True) as pipe:
        pipe.delete(KEY)
        for number, each in enumerate(others):
            pipe.xadd(KEY, {"event": body(each)}, id=f"{at.position.ms + away_ms + number}-0")
        pipe.execute()
    finish(witness, drainer)
    assert_counted_once(runtime, events[: at.read] + others)
    assert_law(runtime)
    assert checkpoints(runtime)[HOME].epoch == 1
