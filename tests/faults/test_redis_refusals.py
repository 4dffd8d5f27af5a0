"""A Redis that refuses commands: full, a replica, or without the worker's registration. Everything recovers by itself."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis.exceptions import OutOfMemoryError, RedisError
from rq import Worker
from sqlalchemy import Engine

from api_stub.operations import Health
from event_stream import Producer
from event_stream.events.event import partition_of
from event_stream.settings import StreamSettings
from event_stream.streams.stream import Stream
from event_stream.streams.stream_keys import PARTITIONS_KEY, stream_key
from monitoring.health import projector_health
from tests.support.events import TENANT, event
from tests.support.harness import append, closing_runtime, drain_all
from tests.support.invariants import CheckpointObserver, assert_counted_once, assert_counters_add_up
from tests.support.processes import environ_of
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, free_port, wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.doctor.context import Context
from workers.doctor.runner import run_checks
from workers.jobs.queue import drain_queue
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime, redis_client
from workers.telemetry.write_probe import read_write_refusal

TENANT_PARTITION = partition_of(TENANT, 4)
SETTINGS = StreamSettings(partitions=4)
on_one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def servers() -> Iterator[tuple[RedisServer, RedisServer]]:
    both = [RedisServer("--repl-diskless-sync-delay", "0") for _ in range(2)]
    for server in both:
        server.start()
    yield both[0], both[1]
    for server in both:
        server.remove()


def without_replicas(server: RedisServer) -> str:
    server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    return "NOREPLICAS Not enough good replicas to write"


def without_its_folder(server: RedisServer) -> str:
    server.command("CONFIG", "SET", "save", "3600 1")
    shutil.rmtree(server.directory)
    server.command("BGSAVE")
    wait_until(lambda: server.command("INFO", "persistence")["rdb_last_bgsave_status"] == "err", "the snapshot fails")
    return "MISCONF "


def as_replica(server: RedisServer) -> str:
    server.command("REPLICAOF", "127.0.0.1", str(free_port()))
    return "READONLY You can't write against a read only replica"


def full(server: RedisServer) -> str:
    server.command("CONFIG", "SET", "maxmemory", "1")
    return "OOM command not allowed when used memory > 'maxmemory'"


@pytest.mark.first
@pytest.mark.parametrize("refuses", [without_replicas, without_its_folder, as_replica, full])
def test_refused_writes_are_an_error_at_once_that_says_what_redis_says(
    sqlite_url: str, tmp_path: Path, refuses: Callable[[RedisServer], str]
) -> None:
    server = RedisServer()
    server.start()
    environ = environ_of(sqlite_url, server.url) | {"PROJECTOR_DATA_DIR": str(tmp_path)}
    with closing_runtime(Runtime.from_environ(environ)) as runtime:
        runtime.check()
        Dispatcher(runtime).sweep()
        create_worker(runtime).register_birth()  # type: ignore[no-untyped-call]
        assert projector_health(runtime) == Health([], [])
        answer = refuses(server)
        with pytest.raises(RedisError):
            append(runtime, event())
        (problem,) = projector_health(runtime).errors
        assert problem.startswith(f"Redis refuses writes, so producers cannot append: {answer}")
        with closing(Context.from_environ(environ)) as context:
            found = {each.code: each.message for each in run_checks(context).findings}
        assert found["redis-refuses-writes"].startswith(answer)
        later = read_status(runtime).model_copy(update={"workers": [], "dispatchers": []})  # heartbeats have expired
        assert problems.errors(later) == [problem]
    server.remove()


@pytest.mark.first
@on_one_database
def test_a_user_without_the_right_to_write_reports_no_refusal(runtime: Runtime, redis_server: RedisServer) -> None:
    redis_server.command("ACL", "SETUSER", "reader", "on", ">secret", "~*", "+@read", "+ping", "+select")
    url = redis_server.url.replace("//", "//reader:secret@")
    with redis_client(url) as reading:
        assert read_write_refusal(reading) is None
    redis_server.command("ACL", "DELUSER", "reader")


@pytest.mark.first
@on_one_database
def test_a_full_redis_is_trimmed_though_no_job_can_be_enqueued(runtime: Runtime, redis_server: RedisServer) -> None:
    now = [0.0]
    dispatcher = Dispatcher(runtime)
    dispatcher.trimmer.clock = lambda: now[0]
    events = [event() for _ in range(500)]
    append(runtime, *events)
    drain_all(runtime)
    dispatcher.sweep()
    events.append(event())
    append(runtime, events[-1])
    now[0] = 61.0
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(OutOfMemoryError):
            dispatcher.sweep()
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert 2 <= runtime.stream.redis.xlen(stream_key(TENANT_PARTITION)) < 200
    CheckpointObserver(runtime).drain()
    assert_counted_once(runtime, events)
    assert_counters_add_up(runtime)


@on_one_database
def test_a_redis_full_of_pending_entries_is_drained_and_trimmed_though_no_job_can_be_enqueued(
    runtime: Runtime, redis_server: RedisServer
) -> None:
    now = [0.0]
    dispatcher = Dispatcher(runtime)
    dispatcher.trimmer.clock = lambda: now[0]
    events = [event() for _ in range(500)]
    append(runtime, *events)
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        for now[0] in (0.0, 10.0, 71.0):
            with pytest.raises(OutOfMemoryError):
                dispatcher.sweep()
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert redis_server.refusals("OOM") > 0
    assert runtime.queue.count == 0
    assert 1 <= runtime.stream.redis.xlen(stream_key(TENANT_PARTITION)) < 200
    assert_counted_once(runtime, events)
    assert_counters_add_up(runtime)
    dispatcher.sweep()
    assert runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION].entries == 500


@on_one_database
@pytest.mark.parametrize("announced", [True, False])
def test_a_dispatcher_starts_while_redis_is_full(runtime: Runtime, redis_server: RedisServer, announced: bool) -> None:
    if not announced:
        runtime.stream.redis.delete(PARTITIONS_KEY)
    append(runtime, *(events := [event() for _ in range(10)]))
    redis_server.command("CONFIG", "SET", "maxmemory", "1")
    try:
        runtime.check()
        with pytest.raises(OutOfMemoryError):
            Dispatcher(runtime).sweep()
    finally:
        redis_server.command("CONFIG", "SET", "maxmemory", "0")
    assert_counted_once(runtime, events)
    Dispatcher(runtime).sweep()
    assert runtime.stream.redis.exists(PARTITIONS_KEY)


@on_one_database
def test_connections_to_a_primary_that_became_a_replica_move_to_the_new_primary(
    servers: tuple[RedisServer, RedisServer], writer: Engine, reader: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = servers
    proxy = Proxy(old.port)
    url = f"redis://127.0.0.1:{proxy.port}/0"
    stream, queue = redis_client(url), redis_client(url)
    runtime = Runtime(SETTINGS, Stream(stream, 4), writer, reader, drain_queue(queue))
    monkeypatch.setattr("workers.drain.drainer.process_runtime", lambda: runtime)
    producer = Producer.from_url(url, SETTINGS)
    events = [event("project.created.v1"), *(event() for _ in range(20))]
    producer.append_many(events)
    CheckpointObserver(runtime).drain()
    new.replicate(old.port)
    new.promote()
    old.replicate(new.port)
    proxy.retarget(new.port)
    events.append(event())
    producer.append(events[-1])
    Dispatcher(runtime).sweep()
    create_worker(runtime).work(burst=True, logging_level="CRITICAL")
    assert old.refusals("READONLY") >= 2
    assert proxy.happened == 0
    assert_counted_once(runtime, events)
    assert_counters_add_up(runtime)
    for client in (stream, queue, producer._stream.redis):
        client.close()
    proxy.close()


@pytest.mark.first
@on_one_database
def test_a_worker_that_redis_forgot_registers_again(runtime: Runtime) -> None:
    working = create_worker(runtime)
    working.register_birth()  # type: ignore[no-untyped-call]
    before = read_status(runtime).workers
    runtime.stream.redis.flushall()
    assert read_status(runtime).workers == []
    working.heartbeat()
    after = read_status(runtime).workers
    assert [(each.name, each.host, each.pid) for each in after] == [(each.name, each.host, each.pid) for each in before]
    assert Worker.count(queue=runtime.queue) == 1
    assert 0 < runtime.stream.redis.ttl(working.key) < 600  # if it dies now
