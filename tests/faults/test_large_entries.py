"""Entries of any size: no process that looks at a stream receives them, and they stop no partition."""

import random
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from event_stream.events.event import partition_of
from event_stream.events.json_body import BODY_BYTES_MAX
from event_stream.producer import Producer
from event_stream.settings import StreamSettings
from event_stream.streams.entries import START, Entry
from event_stream.streams.entry_digest import ENTRY_BYTES_MAX, PART_BYTES
from event_stream.streams.stream import READ_BYTES_MAX, Stream
from event_stream.streams.stream_keys import stream_key
from tests.support.events import TENANT, body, event
from tests.support.harness import append, checkpoints, drain_all, stored_dead_letters, totals
from tests.support.processes import Start
from tests.support.servers import RedisServer, wait_until
from workers.dispatch.trimmer import Trimmer
from workers.doctor.partitions import UNTRIMMED_ENTRIES_MAX
from workers.reporting.overview import read_overview
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime, redis_client

PARTITIONS = 4
TENANT_PARTITION = partition_of(TENANT, PARTITIONS)
KEY = stream_key(TENANT_PARTITION)
HUGE = b"h" * 100_000_000
MIB = 1024 * 1024
# The kernel's buffers take some of a reply before the connection is closed.
SOCKET_BUFFERS = 20 * MIB
only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


class Sent:
    """The bytes that the server has sent since the last call, without the reply to the question itself."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.before = self._total()

    def __call__(self) -> int:
        before, self.before = self.before, self._total()
        return self.before - before

    def _total(self) -> int:
        return int(self.server.command("INFO", "stats")["total_net_output_bytes"])


@pytest.fixture
def sent(redis_url: str, redis_server: RedisServer) -> Sent:
    return Sent(redis_server)


@pytest.fixture
def redis(redis_url: str) -> Any:
    return redis_client(redis_url)


def random_entries(rng: random.Random) -> list[dict[bytes, bytes]]:
    sizes = (0, 1, 65_536, 65_537, 300_000, ENTRY_BYTES_MAX - 2 * PART_BYTES - 5)
    entries = [{rng.randbytes(5): rng.randbytes(size)} for size in sizes]
    entries += [
        {rng.randbytes(8): rng.randbytes(rng.randrange(50)) for _ in range(number)}
        for number in (1, 2, 32, 33, 200, 9_000)
    ]
    return entries + [{rng.randbytes(9): rng.randbytes(rng.randrange(2_000))} for _ in range(30)]


def test_python_and_the_server_compute_the_same_digest(redis: Any) -> None:
    stream = Stream(redis, PARTITIONS)
    parts = [[part for pair in entry.items() for part in pair] for entry in random_entries(random.Random(7))]
    parts += [[b"event", b"a", b"event", b"b"], [b"event", b"b", b"event", b"a"], [b"event", b"b"]]
    parts += [[*parts[10][:-1], b"another last value"]]
    on_server = []
    for each in parts:
        redis.execute_command("XADD", KEY, "*", *each)
        on_server.append(stream.read_after(TENANT_PARTITION, START, 1).end_digest)
    assert on_server == [Entry(b"1-0", each).digest() for each in parts]
    assert len(set(on_server)) == len(parts)


@pytest.mark.first
def test_digests_of_large_entries_differ_by_lengths_beginnings_and_ends(redis: Any) -> None:
    stream, digests = Stream(redis, PARTITIONS), set()
    value = bytes(2 * MIB)
    others = [value + b"\0", b"x" + value[1:], value[:-1] + b"x", value]
    for other in others:
        redis.xadd(KEY, {"event": other})
        digests.add(stream.read_after(TENANT_PARTITION, START, 1).end_digest)
    assert len(digests) == len(others)


def test_an_entry_of_many_empty_fields_is_large(redis: Any, sent: Sent) -> None:
    redis.execute_command("XADD", KEY, "*", *[b""] * 200_000)
    (entry,) = Stream(redis, PARTITIONS).read_after(TENANT_PARTITION, START, 10).entries
    assert entry.large is not None
    assert sent() < 10_000


@only_sqlite
@pytest.mark.parametrize("where", ["first", "last", "checkpoint"])
def test_a_huge_entry_is_parked_and_stops_no_partition(runtime: Runtime, sent: Sent, where: str) -> None:
    before = 20 if where == "last" else 0
    append(runtime, *(event() for _ in range(before)))
    runtime.stream.redis.xadd(KEY, {"event": HUGE})
    if where == "checkpoint":
        drain_all(runtime)
        assert checkpoints(runtime)[TENANT_PARTITION].read == 1
    append(runtime, *(event() for _ in range(30 - before)))
    drain_all(runtime)
    assert totals(runtime) == {"read": 31, "applied": 30, "duplicates": 0, "dead_lettered": 1, "lost": 0}
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 0
    (dead_letter,) = stored_dead_letters(runtime)
    assert dead_letter.reason == "too_large"
    assert dead_letter.body == HUGE[:BODY_BYTES_MAX]
    assert dead_letter.body_length == len(HUGE)
    assert dead_letter.body_sha256 == sha256(HUGE).hexdigest()
    assert sent() < len(HUGE) + MIB  # once, for the hash


@only_sqlite
@pytest.mark.parametrize("where", ["first", "last", "only"])
def test_nothing_that_looks_at_a_stream_receives_its_huge_entry(runtime: Runtime, sent: Sent, where: str) -> None:
    events = 0 if where == "only" else 300
    append(runtime, *(event() for _ in range(events if where == "last" else 0)))
    runtime.stream.redis.xadd(KEY, {"event": HUGE})
    append(runtime, *(event() for _ in range(events if where == "first" else 0)))
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    for is_drained in (False, True):
        if is_drained:
            drain_all(runtime)
            assert runtime.stream.end(TENANT_PARTITION).position == checkpoints(runtime)[TENANT_PARTITION].position
        sent()
        assert runtime.stream.end(TENANT_PARTITION).added == events + 1
        assert read_status(runtime).partitions[TENANT_PARTITION].in_flight == (0 if is_drained else events + 1)
        read_overview(runtime)
        runtime.stream.position_after(TENANT_PARTITION, START, UNTRIMMED_ENTRIES_MAX)
        Producer(runtime.stream, StreamSettings(partitions=PARTITIONS)).append_many([])
        for _ in range(2):
            now[0] += 61
            trimmer.update(checkpoints(runtime))
        assert sent() < MIB
    assert runtime.stream.redis.xlen(KEY) < 100 + (where == "only")


@pytest.mark.first
def test_looking_at_an_unchanged_stream_does_not_copy_its_large_entry(redis: Any, redis_server: RedisServer) -> None:
    stream = Stream(redis, PARTITIONS)
    redis.xadd(KEY, {"event": bytes(2 * MIB)})
    end = stream.end(TENANT_PARTITION)
    redis_server.command("CONFIG", "RESETSTAT")
    for _ in range(20):
        assert stream.ends()[TENANT_PARTITION] == end
    assert "cmdstat_xinfo|stream" not in redis_server.command("INFO", "commandstats")
    second = redis.xadd(KEY, {"event": b"x"}).decode()
    changed = stream.end(TENANT_PARTITION)
    assert (str(changed.position), changed.length, changed.added) == (second, 2, 2)
    redis.delete(KEY)
    assert stream.end(TENANT_PARTITION).position is None


@pytest.mark.first
def test_a_read_stops_at_its_bytes_before_they_are_sent() -> None:
    redis_server = RedisServer()  # its memory has no peak yet
    redis_server.start()
    redis, sent = redis_client(redis_server.url), Sent(redis_server)
    stream = Stream(redis, PARTITIONS)
    stream.append([(TENANT_PARTITION, body(event()))] * 32)
    stream.append([(TENANT_PARTITION, b"x" * 61_000)] * 1_000)
    used = redis_server.command("INFO", "memory")["used_memory"]
    sent()
    position, read = START, 0
    while found := stream.read_after(TENANT_PARTITION, position, 8_000).entries:
        assert sent() < READ_BYTES_MAX + MIB
        position, read = found[-1].position, read + len(found)
    assert read == 1_032
    assert redis_server.command("INFO", "memory")["used_memory_peak"] < used + 3 * READ_BYTES_MAX
    redis.close()
    redis_server.remove()


@only_sqlite
def test_status_receives_little_of_many_large_waiting_entries(runtime: Runtime, sent: Sent) -> None:
    for partition in range(PARTITIONS):
        for _ in range(50):
            runtime.stream.redis.xadd(stream_key(partition), {"event": bytes(ENTRY_BYTES_MAX - 100)})
    sent()
    assert [each.in_flight for each in read_status(runtime).partitions] == [50] * PARTITIONS
    assert sent() < MIB
    read_overview(runtime)  # it samples the bodies for their tenants
    assert sent() < (PARTITIONS + 1) * 2 * MIB


@pytest.mark.first
def test_waiting_for_a_large_entry_receives_only_its_beginning(redis: Any, sent: Sent) -> None:
    stream = Stream(redis, PARTITIONS)
    ends = dict(enumerate(stream.ends()))
    redis.xadd(KEY, {"event": HUGE})
    sent()
    assert stream.wait_for_more(ends, 1) == [TENANT_PARTITION]
    assert sent() < SOCKET_BUFFERS
    other = (TENANT_PARTITION + 1) % PARTITIONS
    redis.xadd(stream_key(other), {"event": b"x"})
    assert stream.wait_for_more({other: ends[other]}, 1) == [other]


@only_sqlite
def test_an_event_beside_a_huge_other_field_is_applied(runtime: Runtime, sent: Sent) -> None:
    runtime.stream.redis.xadd(KEY, {"event": body(event()), "other": HUGE})
    runtime.stream.redis.xadd(KEY, {"other": HUGE})
    drain_all(runtime)
    assert totals(runtime) == {"read": 2, "applied": 1, "duplicates": 0, "dead_lettered": 1, "lost": 0}
    (dead_letter,) = stored_dead_letters(runtime)
    assert dead_letter.reason == "not_an_event"
    assert b"100000069" in (dead_letter.body or b"")  # the size of its name and value
    assert sent() < MIB


@only_sqlite
def test_processes_project_all_partitions_beside_a_huge_entry_with_little_memory(
    runtime: Runtime, start: Start
) -> None:
    runtime.stream.redis.xadd(KEY, {"event": HUGE})
    append(runtime, *(event(tenantid=f"ten_{number}") for number in range(200)))
    dispatcher = start("cli", "dispatcher")
    start("tests.support.memory_limited_worker", "80", "killed")
    wait_until(lambda: totals(runtime)["read"] == 201, "all partitions are projected", 60)
    assert totals(runtime)["applied"] == 200
    status = Path(f"/proc/{dispatcher.pid}/status").read_text()
    peak_kib = int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0])
    assert peak_kib * 1024 < len(HUGE) + 60 * MIB
