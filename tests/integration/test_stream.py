"""Streams and producers."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.v1.event import CloudEvent
from redis import Redis
from redis.exceptions import OutOfMemoryError, ResponseError

from event_stream import (
    Appended,
    BacklogFullError,
    InvalidEventError,
    PartitionsMismatchError,
    Position,
    Producer,
    WaitTimeoutError,
)
from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from event_stream.settings import StreamSettings
from event_stream.streams.ends import parse_end
from event_stream.streams.entries import START, Entry, StreamEnd
from event_stream.streams.scripts import RedisTooOldError
from event_stream.streams.stream import ProjectedPosition, Stream
from tests.support.events import NOW_US, PROJECT, TENANT, body, event
from tests.support.servers import RedisServer
from workers.runtime import redis_client

TENANT_PARTITION = partition_of(TENANT, 4)
KEY = f"events:{{{TENANT_PARTITION}}}"


@pytest.fixture
def redis(redis_url: str) -> Iterator[Any]:
    client = redis_client(redis_url)
    yield client
    client.close()


@pytest.fixture
def stream(redis: "Redis") -> Stream:
    return Stream(redis, 4)


@pytest.fixture
def producer(stream: Stream) -> Producer:
    return Producer(stream, StreamSettings(partitions=4, backlog_limit=5))


def test_positions_order_as_integers() -> None:
    assert Position.parse("9-0") < Position.parse(b"10-0") < Position(10, 1)
    assert str(Appended(3, Position(10, 1))) == "3-10-1"
    for bad in ("", "1", "x-1", "1-x"):
        with pytest.raises(ValueError):
            Position.parse(bad)


def test_a_producer_appends_to_the_tenants_partition_under_the_documented_keys(producer: Producer, redis: Any) -> None:
    made = event()
    appended = producer.append(made)
    assert appended.partition == TENANT_PARTITION
    ((entry_id, fields),) = redis.xrange(KEY)
    assert entry_id.decode() == str(appended.position)
    assert set(fields) == {b"event"}
    assert redis.get("events:partitions") is None  # only the dispatcher publishes it


def test_an_event_of_the_cloudevents_sdk_can_be_appended(producer: Producer, redis: Any) -> None:
    made = event()
    attributes = {name: value for name, value in made.items() if name not in ("data", "time", "specversion")}
    producer.append(CloudEvent(attributes | {"time": datetime.now(UTC)}, made["data"]))
    assert len(redis.xrange(KEY)) == 1


@pytest.mark.parametrize(
    "bad",
    [
        event(id=""),
        event() | {"type": "unknown.v1"},
        event("watchdog.toggled.v1", {"enabled": 1}),
        event(x=float("nan")),
        event(x="\ud800"),
        event(x=object()),
        "no event",
        b"{}",
        None,
        event(pad="x" * 70_000),
        event(time=format_time(NOW_US + 3_600_000_000)),
    ],
)
def test_nothing_is_sent_if_one_event_is_invalid(producer: Producer, redis: Any, bad: Any) -> None:
    with pytest.raises(InvalidEventError):
        producer.append_many([event(), bad, event()])
    assert redis.xlen(KEY) == 0


def test_the_error_names_the_rule_and_the_type_and_length_of_the_value(producer: Producer) -> None:
    with pytest.raises(InvalidEventError) as caught:
        producer.append(event(tenantid="NOT/A/TENANT"))
    assert caught.value.reason == "not_an_event"
    assert caught.value.detail.startswith("tenantid (string of 12 characters): must be 1 to 64 of")


def test_a_producer_appends_events_in_every_spelling_unchanged(producer: Producer, redis: Any) -> None:
    made = event(id="42", projectid=PROJECT.upper(), time="2026-04-25t14:30:12z")
    producer.append(made)
    (_, fields), *_ = redis.xrange(KEY)
    assert json.loads(fields[b"event"]) == made


def test_appending_no_events_is_allowed(producer: Producer) -> None:
    assert producer.append_many([]) == []


def test_another_number_of_partitions_is_refused(stream: Stream, redis: "Redis") -> None:
    stream.announce_partitions()
    assert redis.get("events:partitions") == b"4"
    with pytest.raises(PartitionsMismatchError, match="PROJECTOR_PARTITIONS=4"):
        Producer(Stream(redis, 8), StreamSettings(partitions=8))


def test_the_backlog_limit_counts_what_is_not_yet_projected(producer: Producer, stream: Stream) -> None:
    appended = producer.append_many([event() for _ in range(5)])
    with pytest.raises(BacklogFullError, match="5 entries not yet projected"):
        producer.append(event())
    stream.publish_projected(TENANT_PARTITION, ProjectedPosition(appended[1].position, 2))
    producer.append_many([event(), event()])
    with pytest.raises(BacklogFullError):
        producer.append(event())


def test_entries_projected_before_the_stream_was_lost_do_not_count(producer: Producer, stream: Stream) -> None:
    stream.publish_projected(TENANT_PARTITION, ProjectedPosition(Position(1, 0), 10))
    producer.append_many([event() for _ in range(5)])


def test_a_wait_ends_when_the_position_is_projected_or_the_timeout_expires(producer: Producer, stream: Stream) -> None:
    appended = producer.append(event())
    with pytest.raises(WaitTimeoutError, match=str(appended)):
        producer.wait_until_projected(appended, timeout_s=0.05)
    later = threading.Timer(
        0.1, lambda: stream.publish_projected(TENANT_PARTITION, ProjectedPosition(appended.position, 1))
    )
    later.start()
    producer.wait_until_projected(appended, timeout_s=10)
    later.join()


def test_reading_starts_after_the_position_and_returns_the_end_and_three_digests(stream: Stream) -> None:
    stream.append([(TENANT_PARTITION, body(event())) for _ in range(5)])
    whole = stream.read_after(TENANT_PARTITION, START, 10)
    first, second, *_, last = whole.entries
    assert len(whole.entries) == 5
    assert whole.reaches_end
    assert whole.end == StreamEnd(last.position, length=5, added=5, last_id=last.position)
    part = stream.read_after(TENANT_PARTITION, first.position, 2, extra_position=second.position)
    assert part.entries == whole.entries[1:3]
    assert not part.reaches_end
    assert (part.before_digest, part.extra_digest, part.end_digest) == (
        first.digest(),
        second.digest(),
        last.digest(),
    )


def test_entries_after_a_position_are_found_by_numeric_order(stream: Stream, redis: Any) -> None:
    for id_ in ("9-9", "9-10", "10-0"):
        redis.xadd(KEY, {"event": "x"}, id=id_)
    following = stream.read_after(TENANT_PARTITION, Position(9, 9), 3)
    assert [entry.position for entry in following.entries] == [Position(9, 10), Position(10, 0)]
    following = stream.read_after(TENANT_PARTITION, Position(9, 11), 3)  # the entry at the position was trimmed
    assert [entry.position for entry in following.entries] == [Position(10, 0)]
    assert following.before_digest == b""


def test_a_stream_that_does_not_exist_is_empty(stream: Stream) -> None:
    assert stream.read_after(TENANT_PARTITION, START, 10).end == StreamEnd(None, 0, 0)
    assert stream.ends() == [StreamEnd(None, 0, 0)] * 4


def test_a_deleted_tail_is_not_the_end(stream: Stream, redis: Any) -> None:
    first, second = stream.append([(TENANT_PARTITION, body(event())) for _ in range(2)])
    redis.xdel(KEY, str(second.position))
    assert stream.ends()[TENANT_PARTITION].position == first.position


def test_digests_distinguish_entries(stream: Stream, redis: Any) -> None:
    for fields in (
        "event a",
        "event b",
        "even ta",
        "event a x y",
        "event a event a",
        "event b event a",
        "event a x y x y",
    ):
        redis.execute_command("XADD", KEY, "*", *fields.split())
    entries = stream.read_after(TENANT_PARTITION, START, 10).entries
    assert len({entry.digest() for entry in entries}) == 7


def test_the_end_of_a_stream_is_its_last_entry_also_if_a_field_is_repeated(stream: Stream, redis: Any) -> None:
    redis.execute_command("XADD", KEY, "*", "event", "a", "event", "b")
    read = stream.read_after(TENANT_PARTITION, START, 10)
    assert read.entries[0].parts == [b"event", b"a", b"event", b"b"]
    assert read.entries[0].body == b"b"
    assert stream.end(TENANT_PARTITION).position == read.end.position == read.entries[0].position
    assert read.end_digest == read.entries[0].digest()


@pytest.mark.parametrize("fields", [["event", "a", "event", "b"], ["x", "1", "event", "a", "x", "1"]])
def test_a_stream_whose_known_entry_repeats_a_field_is_trimmed(stream: Stream, redis: Any, fields: list[str]) -> None:
    stream.append([(TENANT_PARTITION, b"x")] * 1000)
    redis.execute_command("XADD", KEY, "*", *fields)
    *_, last = stream.read_after(TENANT_PARTITION, START, 2000).entries
    shorter = last._replace(parts=last.parts[2:])
    assert stream.trim(TENANT_PARTITION, last.position, last.position, shorter.digest()) == 0
    assert stream.trim(TENANT_PARTITION, last.position, last.position, last.digest()) > 900


def test_trimming_keeps_the_entry_at_the_position(stream: Stream, redis: Any) -> None:
    appended = stream.append([(TENANT_PARTITION, b"x") for _ in range(1000)])
    digest = Entry(b"", [b"event", b"x"]).digest()
    assert stream.trim(TENANT_PARTITION, appended[700].position, appended[999].position, digest) > 500
    assert redis.xrange(KEY, min=str(appended[700].position), count=1)
    assert redis.xlen(KEY) >= 300


@pytest.mark.parametrize("fields", [{"event": "y"}, {"event": "x", "more": "x"}, {"other": "x"}])
def test_a_stream_with_another_entry_at_the_position_is_not_trimmed(stream: Stream, redis: Any, fields: Any) -> None:
    *_, last = stream.append([(TENANT_PARTITION, b"x") for _ in range(500)])
    digest = Entry(b"", [b"event", b"x"]).digest()
    redis.xdel(KEY, str(last.position))
    assert stream.trim(TENANT_PARTITION, last.position, last.position, digest) == 0
    redis.delete(KEY)
    for number in range(500):
        redis.xadd(KEY, {"event": "new"}, id=f"1-{number + 1}")
    redis.xadd(KEY, fields, id=str(last.position))
    assert stream.trim(TENANT_PARTITION, last.position, last.position, digest) == 0
    assert redis.xlen(KEY) == 501


def test_trimming_leaves_few_entries_of_a_stream_of_any_length(stream: Stream) -> None:
    last = [stream.append([(TENANT_PARTITION, b"x")] * 10_000)[-1].position for _ in range(3)][-1]
    digest = Entry(b"", [b"event", b"x"]).digest()
    assert stream.trim(TENANT_PARTITION, last, last, digest) > 29_000
    assert stream.ends()[TENANT_PARTITION].length < 1_000
    assert stream.ends()[TENANT_PARTITION].position == last


def test_a_server_without_the_entries_added_counter_is_refused() -> None:
    # What the script returns if XINFO STREAM has no such field, as in Redis 6.2, which is not available here.
    with pytest.raises(RedisTooOldError, match=r"Redis 7\.0 or Valkey 8"):
        parse_end([b"TOOOLD"])


def test_an_append_after_a_refused_one_gets_its_own_results(redis_url: str) -> None:
    client = redis_client(redis_url)
    stream = Stream(client, 4)
    client.set(f"events:{{{TENANT_PARTITION}}}", "no stream")
    one, other, _ = (partition for partition in range(4) if partition != TENANT_PARTITION)
    with pytest.raises(ResponseError, match=r"^WRONGTYPE"):
        stream.append([(TENANT_PARTITION, b"x"), (one, b"y"), (other, b"z")])
    client.delete(f"events:{{{TENANT_PARTITION}}}")
    appended = stream.append([(other, b"1"), (one, b"2")])
    assert appended == [(partition, stream.ends()[partition].position) for partition in (other, one)]
    client.close()


def test_entries_appended_together_keep_their_order_across_transactions(stream: Stream) -> None:
    bodies = [(number % 3, b"%d" % number + b"x" * 20_000) for number in range(20)]
    appended = stream.append(bodies)
    assert [each.partition for each in appended] == [partition for partition, _ in bodies]
    for partition in range(3):
        mine = [
            (at.position, body) for at, (_, body) in zip(appended, bodies, strict=True) if at.partition == partition
        ]
        assert [(entry.position, entry.body) for entry in stream.read_after(partition, START, 20).entries] == mine


def test_a_thousand_events_are_synced_a_few_times_and_block_other_clients_briefly(
    redis_url: str, redis_server: RedisServer
) -> None:
    client = redis_client(redis_url)
    redis_server.command("CONFIG", "RESETSTAT")
    Stream(client, 4).append([(TENANT_PARTITION, b"x" * 300)] * 1_000)
    assert client.info("commandstats")["cmdstat_exec"]["calls"] == 7  # of 8, 16, 32 and 64 KiB
    client.close()


def test_a_full_redis_raises_an_error_and_appends_nothing(redis_url: str, redis_server: RedisServer) -> None:
    client = redis_client(redis_url)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            Stream(client, 4).append([(TENANT_PARTITION, b"x"), (TENANT_PARTITION, b"y")])
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert client.xlen(KEY) == 0
    client.close()


def test_waiting_for_entries_returns_as_soon_as_one_arrives(redis_url: str) -> None:
    client = redis_client(redis_url)
    stream = Stream(client, 4)
    stream.append([(TENANT_PARTITION, b"x")])
    ends = dict(enumerate(stream.ends()))
    started = time.monotonic()
    assert stream.wait_for_more(ends, 0.2) == []
    assert time.monotonic() - started >= 0.15
    later = threading.Timer(0.1, lambda: stream.append([(0, b"y")]))
    later.start()
    started = time.monotonic()
    assert stream.wait_for_more(ends, 4) == [0]
    assert time.monotonic() - started < 3
    later.join()
    client.close()


def test_importing_the_producers_package_needs_no_sql_and_no_rq() -> None:
    code = (
        "import sys, event_stream; bad = {'sqlalchemy', 'rq', 'starlette', 'structlog', 'psycopg'} & set(sys.modules);"
        "sys.exit(bool(bad))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_producer_from_a_url_takes_its_settings_from_the_environment(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECTOR_PARTITIONS", "4")
    producer = Producer.from_url(redis_url)
    assert producer.append(event()).partition == TENANT_PARTITION
    producer._stream.redis.close()


@pytest.mark.parametrize("off_s", [-86_400, -600, 600, 86_400])
def test_a_producer_refuses_no_event_that_is_valid_by_its_clock_or_by_the_servers(
    stream: Stream, monkeypatch: pytest.MonkeyPatch, off_s: int
) -> None:
    producer = Producer(stream, StreamSettings(partitions=4))
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + off_s)
    now_us = int(true_time() * 1_000_000)
    for valid_s in (0, off_s):
        assert producer.append(event(time=format_time(now_us + valid_s * 1_000_000))).partition == TENANT_PARTITION
    with pytest.raises(InvalidEventError, match="time_in_future"):
        producer.append(event(time=format_time(now_us + (max(0, off_s) + 400) * 1_000_000)))


def test_entries_too_large_to_be_sent_at_once_are_read_in_order(stream: Stream) -> None:
    bodies = [b"%d" % number + b"x" * 20_000 for number in range(100)]
    stream.append([(TENANT_PARTITION, each) for each in bodies])
    position, read = START, list[bytes | None]()
    while found := stream.read_after(TENANT_PARTITION, position, 100, bytes_max=500_000).entries:
        assert len(found) <= 25
        read += [entry.body for entry in found]
        position = found[-1].position
    assert read == bodies


def test_a_server_that_forgot_the_scripts_gets_them_again(stream: Stream, redis: Any) -> None:
    stream.append([(TENANT_PARTITION, b"x")])
    end = stream.end(TENANT_PARTITION)
    redis.script_flush()
    assert stream.end(TENANT_PARTITION) == end
