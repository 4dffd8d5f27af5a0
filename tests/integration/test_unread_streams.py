"""Streams that look like a partition's and are not: status, health and the doctor report them."""

import time
from typing import Any

import pytest

from event_stream.streams.unread_streams import SHOWN_MAX, find_all, find_likely
from tests.support.servers import RedisServer
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime, redis_client

KEYS = 300_000


@pytest.fixture
def redis(redis_url: str) -> Any:
    return redis_client(redis_url)


@pytest.mark.parametrize("key", ["events:5", "events:1", "events:{4}", "events:{60}"])
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_stream_that_looks_like_a_partitions_and_is_not_is_reported(runtime: Runtime, key: str) -> None:
    runtime.stream.redis.xadd("events:{3}", {"event": "x"})
    runtime.stream.redis.xadd("orders:5", {"event": "x"})
    runtime.stream.redis.set("events:6", "x")
    assert read_status(runtime).unread_streams == {}
    for _ in range(2):
        runtime.stream.redis.xadd(key, {"event": "x"})
    status = read_status(runtime)
    assert status.unread_streams == {key: 2}
    assert any(key in problem for problem in problems.warnings(status))


@pytest.mark.parametrize("key", ["events:{05}", "events:{9999}", "Events:{1}", "event:1", "events: {1}", "events:[1]"])
def test_a_search_of_all_keys_finds_less_likely_names_too(redis: Any, key: str) -> None:
    redis.mset({f"cache:{number}": "" for number in range(1000)})
    redis.xadd("events:{1}:old", {"event": "x"})
    redis.xadd(key, {"event": "x"})
    assert find_likely(redis, 4) == {}
    assert find_all(redis, 4, time.monotonic() + 60) == {key: 1}


def test_the_search_for_unread_streams_ends_in_time_on_a_redis_with_many_keys(
    redis: Any, redis_server: RedisServer
) -> None:
    for first in range(0, KEYS, 10_000):
        redis.mset({f"cache:{number}": "" for number in range(first, first + 10_000)})
    redis.xadd("events:5", {"event": "x"})
    redis_server.command("CONFIG", "RESETSTAT")
    assert find_all(redis, 4, time.monotonic() + 0.01) == {"events:5": 1}
    statistics = redis_server.command("INFO", "commandstats")
    assert 0 < statistics["cmdstat_scan"]["calls"] < KEYS // 5_000


def test_a_limited_number_of_streams_is_reported(redis: Any) -> None:
    for number in range(100):
        redis.xadd(f"events:{number}", {"event": "x"})
    assert len(find_all(redis, 4, time.monotonic() + 60)) == SHOWN_MAX
