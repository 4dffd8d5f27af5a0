"""Redis and the database belong together: one process never joins the Redis of one deployment to another's database."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from redis import Redis
from redis.exceptions import RedisError

from event_stream import DeploymentMismatchError, Producer
from event_stream.events.event import partition_of
from event_stream.settings import StreamSettings
from event_stream.streams.deployment import DeploymentPin, read_deployment
from event_stream.streams.stream import Stream
from event_stream.streams.stream_keys import DEPLOYMENT_KEY, stream_key
from migrations import migrate_database
from monitoring.health import projector_health
from projections.database.engines import reader_engine, writer_engine
from projections.transaction import deployment_table
from tests.conftest import PARTITIONS, sqlalchemy_url
from tests.support.commands import run_command
from tests.support.events import TENANT, event
from tests.support.harness import append, append_raw, checkpoints, closing_runtime, drain_all, log_size, totals
from tests.support.processes import Start, environ_of
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer, RedisServer, wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.dispatch.trimmer import Trimmer
from workers.doctor.context import Context
from workers.doctor.runner import run_checks
from workers.drain.drainer import Drainer
from workers.jobs.queue import drain_queue
from workers.reporting.overview import read_overview
from workers.runtime import Runtime, redis_client

TENANT_PARTITION = partition_of(TENANT, PARTITIONS)
SOME = 300  # more than an approximate trim leaves
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def other(redis_url: str, tmp_path: Path) -> Iterator[Runtime]:
    """Another deployment: a Redis and a database of its own."""
    environ = environ_of(f"sqlite:///{tmp_path}/other.db", redis_url.replace("/0", "/1"))
    migrate_database(environ["DATABASE_URL"], PARTITIONS)
    with closing_runtime(Runtime.from_environ(environ)) as made:
        made.check()
        yield made


@pytest.fixture
def mixed(runtime: Runtime, other: Runtime) -> Runtime:
    """The database of `runtime` with the Redis of `other`, which has entries that no database has read."""
    append(runtime, event())
    drain_all(runtime)
    append(other, *(event() for _ in range(SOME)))
    return replace(other, writer=runtime.writer, reader=runtime.reader)


def ids(*runtimes: Runtime) -> list[str]:
    return [str(each.deployment().database_id) for each in runtimes]


@pytest.mark.first
@on_sqlite
def test_no_entry_of_another_deployment_is_applied_or_trimmed(mixed: Runtime, runtime: Runtime, other: Runtime) -> None:
    length = other.stream.redis.xlen(stream_key(TENANT_PARTITION))
    with pytest.raises(DeploymentMismatchError) as refused:
        mixed.check()
    with pytest.raises(DeploymentMismatchError):
        Dispatcher(mixed).sweep()
    with pytest.raises(DeploymentMismatchError):
        Drainer(mixed, TENANT_PARTITION).step()
    assert [each in str(refused.value) for each in ids(runtime, other)] == [True, True]
    assert log_size(runtime.reader) == 1
    assert other.stream.redis.xlen(stream_key(TENANT_PARTITION)) == length == SOME
    drain_all(other)
    assert totals(other)["applied"] == SOME


@pytest.mark.first
@on_sqlite
def test_status_health_doctor_and_the_command_name_both_deployments(
    mixed: Runtime, runtime: Runtime, other: Runtime, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    environ = environ_of(database_url, redis_url.replace("/0", "/1")) | {"PROJECTOR_DATA_DIR": str(tmp_path)}
    problem = read_overview(mixed).problems[0]
    assert problem.startswith("Redis belongs to deployment ")
    assert [each in problem for each in ids(runtime, other)] == [True, True]
    assert projector_health(mixed).errors[0] == problem
    with closing(Context.from_environ(environ)) as context:
        assert "deployment-differs" in {each.code for each in run_checks(context).findings}
    shown = run_command(environ, "deployment", "show", "--json")
    assert shown.returncode == 1
    found = json.loads(shown.stdout)
    assert [found["database_id"], found["redis_id"], found["problems"]] == [*ids(runtime, other), [problem]]


@pytest.mark.parametrize(
    "command",
    [
        ("worker",),
        ("dispatcher",),
        ("append", "/dev/null"),
        ("dead-letters", "replay", "--all", "--yes"),
        ("dead-letters", "discard", "--all", "--yes"),
        ("rebuild",),
        ("migrate",),
        ("keys", "create", "--tenant", TENANT),
    ],
    ids=lambda command: "-".join(command[:2]),
)
@on_sqlite
def test_every_command_that_writes_refuses_the_redis_of_another_deployment(
    mixed: Runtime, runtime: Runtime, other: Runtime, database_url: str, redis_url: str, command: tuple[str, ...]
) -> None:
    refused = run_command(environ_of(database_url, redis_url.replace("/0", "/1")), *command, timeout_s=60)
    assert refused.returncode == 1
    assert [each in refused.stderr for each in ids(runtime, other)] == [True, True]
    assert f"Redis at {redis_url.removeprefix('redis://').replace('/0', '/1')} belongs to" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert run_command(environ_of(database_url, redis_url), "keys", "list").returncode == 0


@pytest.mark.first
@pytest.mark.both_databases
def test_several_processes_that_start_first_agree_on_one_id(runtime: Runtime, redis_url: str) -> None:
    with runtime.writer.begin() as connection:
        connection.execute(deployment_table.table.delete())
    runtime.stream.redis.delete(DEPLOYMENT_KEY)
    url = runtime.writer.url.render_as_string(hide_password=False)
    started = [Runtime.for_writing(environ_of(url, redis_url)) for _ in range(6)]
    with ThreadPoolExecutor(len(started)) as threads:
        list(threads.map(Runtime.check, started))
    found = {(each.deployment().database_id, each.deployment().redis_id) for each in started}
    for each in started:
        with closing_runtime(each):
            pass
    assert len(found) == 1
    assert len(set(next(iter(found)))) == 1


@pytest.mark.first
@on_sqlite
def test_an_emptied_redis_gets_the_id_again_from_a_running_dispatcher(runtime: Runtime) -> None:
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    trimmer.update(checkpoints(runtime))
    before = read_deployment(runtime.stream.redis)
    runtime.stream.redis.flushall()
    assert read_deployment(runtime.stream.redis) == (None, None)
    now[0] = 6.0
    trimmer.update(checkpoints(runtime))
    assert read_deployment(runtime.stream.redis) == before != (None, None)


@pytest.mark.first
@on_sqlite
def test_a_new_database_adopts_the_id_of_redis_and_is_reported_as_another_one(runtime: Runtime, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/new.db"
    migrate_database(url, PARTITIONS)
    new = replace(runtime, writer=writer_engine(url), reader=reader_engine(url))
    new.check()
    assert ids(new) == ids(runtime)
    assert new.deployment().is_copy
    assert not runtime.deployment().is_copy
    new.writer.dispose()
    new.reader.dispose()


@pytest.mark.first
@on_sqlite
def test_a_copy_of_the_database_trims_nothing_until_it_is_adopted(
    runtime: Runtime, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    append(runtime, *(event() for _ in range(SOME)))
    drain_all(runtime)
    with (
        closing(sqlite3.connect(tmp_path / "projector.db")) as source,
        closing(sqlite3.connect(tmp_path / "copy.db")) as to,
    ):
        source.backup(to)
    environ = environ_of(f"sqlite:///{tmp_path}/copy.db", redis_url)
    with closing_runtime(Runtime.for_writing(environ)) as copy:
        copy.check()
        assert _trimmed_after_a_minute(copy) == 0
        assert projector_health(copy).errors[0].startswith("the database is a copy")
        assert not any("is a copy" in error for error in projector_health(runtime).errors)
        assert run_command(environ, "deployment", "show").returncode == 1
        assert run_command(environ, "deployment", "adopt").returncode == 0
        assert not any("is a copy" in error for error in projector_health(copy).errors)
        assert _trimmed_after_a_minute(copy) > 0
        assert runtime.deployment().is_copy  # the original is not the deployment any more
        assert log_size(copy.reader) == SOME


@pytest.mark.first
@on_sqlite
def test_a_fork_has_an_id_of_its_own_and_needs_a_redis_without_processes(
    runtime: Runtime, redis_url: str, tmp_path: Path
) -> None:
    with (
        closing(sqlite3.connect(tmp_path / "projector.db")) as source,
        closing(sqlite3.connect(tmp_path / "copy.db")) as to,
    ):
        source.backup(to)
    environ = environ_of(f"sqlite:///{tmp_path}/copy.db", redis_url)
    worker = create_worker(runtime)
    worker.register_birth()  # type: ignore[no-untyped-call]
    refused = run_command(environ, "deployment", "fork")
    assert refused.returncode == 1
    assert f"processes work on this Redis: {worker.name}; " in refused.stderr
    assert ids(runtime) == [read_deployment(runtime.stream.redis).deployment_id]
    worker.teardown()  # type: ignore[no-untyped-call]
    forked = run_command(environ, "deployment", "fork", "--json")
    assert forked.returncode == 0, forked.stderr
    found = json.loads(forked.stdout)
    assert found["database_id"] == found["redis_id"] != ids(runtime)[0]
    assert runtime.deployment().differs


def _trimmed_after_a_minute(runtime: Runtime) -> int:
    length = int(runtime.stream.redis.xlen(stream_key(TENANT_PARTITION)))
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    for now[0] in (0.0, 61.0):
        trimmer.update(checkpoints(runtime))
    return length - int(runtime.stream.redis.xlen(stream_key(TENANT_PARTITION)))


@pytest.mark.first
@on_sqlite
def test_up_env_is_used_whole_or_not_at_all(
    runtime: Runtime, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    (tmp_path / "up.env").write_text(f"# Written\nREDIS_URL={redis_url}\nDATABASE_URL={database_url}\n")
    clean = {n: v for n, v in environ_of("", "").items() if n not in ("REDIS_URL", "DATABASE_URL")}
    clean["PROJECTOR_DATA_DIR"] = str(tmp_path)
    assert run_command(clean, "status").returncode == 0
    elsewhere = f"sqlite:///{tmp_path}/elsewhere.db"
    one = run_command(clean | {"DATABASE_URL": elsewhere}, "status")
    assert one.returncode == 2
    assert "REDIS_URL: is not set" in one.stderr
    assert "environment.up_env_ignored" in one.stderr
    both = run_command(clean | {"DATABASE_URL": database_url, "REDIS_URL": redis_url}, "status")
    assert (both.returncode, both.stderr) == (0, "")


@pytest.mark.first
@pytest.mark.both_databases
def test_a_new_connection_to_the_database_of_another_deployment_is_refused(
    runtime: Runtime, database_url: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    pinned = writer_engine(database_url)
    deployment_table.pin(pinned, DeploymentPin())
    with pinned.connect() as connection:
        assert deployment_table.read(connection) == ids(runtime)[0]
    name = str(pinned.url.database)
    for engine in (pinned, runtime.writer, runtime.reader):
        engine.dispose()
    if pinned.dialect.name == "sqlite":
        url = f"sqlite:///{tmp_path}/other.db"
        with closing(sqlite3.connect(name)) as source, closing(sqlite3.connect(tmp_path / "other.db")) as to:
            source.backup(to)
        _give_new_id(url)
        shutil.copyfile(tmp_path / "other.db", name)
    else:
        postgres_server.execute(f"CREATE DATABASE other_of_{name} TEMPLATE {name}")
        _give_new_id(sqlalchemy_url(postgres_server.url(f"other_of_{name}")))
        postgres_server.execute(f"DROP DATABASE {name} WITH (FORCE)")
        postgres_server.execute(f"ALTER DATABASE other_of_{name} RENAME TO {name}")
    for _ in range(3):
        with pytest.raises(DeploymentMismatchError), pinned.connect():
            pass
    pinned.dispose()


def _give_new_id(url: str) -> None:
    engine = writer_engine(url)
    with engine.begin() as connection:
        deployment_table.replace(connection)
    engine.dispose()


def test_the_server_of_postgresql_tells_a_dump_restored_elsewhere_from_a_promoted_standby(
    postgres_server: PostgresServer,
) -> None:
    standby = PostgresServer(standby_of=postgres_server)
    standby.start()
    restored = PostgresServer()
    restored.start()
    postgres_server.execute("CREATE ROLE ordinary LOGIN")
    restored.execute("CREATE DATABASE migrated")
    restored.execute("CREATE ROLE ordinary LOGIN")
    found = [_server_of(each) for each in (postgres_server, standby, restored)]
    with psycopg.connect(standby.url(), autocommit=True) as connection:
        connection.execute("SELECT pg_promote()")
    assert _server_of(standby) == found[0] == found[1] != found[2]
    restored.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    with psycopg.connect(restored.url("migrated"), autocommit=True) as connection:
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    assert _server_of(restored) is None
    for server in (standby, restored):
        server.remove()
    postgres_server.execute("DROP ROLE ordinary")


def _server_of(server: PostgresServer) -> str | None:
    """Return how an ordinary role sees the server."""
    engine = reader_engine(sqlalchemy_url(server.url("migrated").replace("postgres@", "ordinary@")))
    with engine.connect() as connection:
        found = deployment_table.database_server(connection)
    engine.dispose()
    return found


@on_sqlite
def test_processes_whose_redis_becomes_another_one_apply_and_trim_nothing_of_it(
    runtime: Runtime, other: Runtime, start: Start, redis_server: RedisServer
) -> None:
    foreign = RedisServer()
    foreign.start()
    proxy = Proxy(redis_server.port)
    moved = replace(
        other,
        stream=Stream(redis_client(foreign.url), PARTITIONS),
        queue=drain_queue(redis_client(foreign.url)),
    )
    moved.stream.redis.set(DEPLOYMENT_KEY, ids(other)[0])
    worker = start("cli", "worker", REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
    dispatcher = start("cli", "dispatcher", REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
    append(runtime, event())
    wait_until(lambda: totals(runtime)["applied"] == 1, "the first event is applied", 90)
    append(moved, *(event() for _ in range(SOME)))
    proxy.retarget(foreign.port)
    proxy.cut()
    wait_until(lambda: worker.poll() is not None, "the worker ends", 90)
    assert worker.returncode == 1
    assert (totals(runtime)["applied"], log_size(runtime.reader)) == (1, 1)
    assert moved.stream.redis.xlen(stream_key(TENANT_PARTITION)) == SOME
    assert moved.queue.count == 0
    assert dispatcher.poll() is None
    proxy.retarget(redis_server.port)
    proxy.cut()
    append(runtime, event())
    start("cli", "worker")
    wait_until(lambda: totals(runtime)["applied"] == 2, "the deployment goes on by itself", 90)
    foreign.remove()


def test_a_live_server_that_takes_over_the_data_of_another_deployment_is_noticed_before_a_commit(
    sqlite_url: str, tmp_path: Path
) -> None:
    own, foreign = RedisServer(), RedisServer()
    own.start()
    foreign.start()
    migrate_database(f"sqlite:///{tmp_path}/other.db", PARTITIONS)
    with (
        closing_runtime(Runtime.for_writing(environ_of(sqlite_url, own.url))) as runtime,
        closing_runtime(Runtime.for_writing(environ_of(f"sqlite:///{tmp_path}/other.db", foreign.url))) as other,
    ):
        runtime.check()
        other.check()
        append(runtime, event())
        drain_all(runtime)
        connections = _connections_of(own)
        append_raw(other, (TENANT_PARTITION + 1) % PARTITIONS, b"nonsense")
        append(other, *(event() for _ in range(SOME)))
        own.replicate(foreign.port)
        own.promote()
        for partition in range(PARTITIONS):
            with suppress(DeploymentMismatchError):
                Drainer(runtime, partition).step()
        assert connections <= _connections_of(own)  # no reconnection helped
        assert totals(runtime) == {"read": 1, "applied": 1, "duplicates": 0, "dead_lettered": 0, "lost": 0}
        with pytest.raises(DeploymentMismatchError):
            Trimmer(runtime).update(checkpoints(runtime))
    own.remove()
    foreign.remove()


def _connections_of(server: RedisServer) -> set[str]:
    with Redis(port=server.port) as client:
        return {each["id"] for each in client.client_list() if each["cmd"] != "client|list" and each["flags"] == "N"}


@pytest.mark.first
@on_sqlite
def test_a_producer_is_refused_where_a_reconnection_leads_to_another_deployment(
    runtime: Runtime, redis_server: RedisServer
) -> None:
    foreign = RedisServer()
    foreign.start()
    foreign.command("SET", DEPLOYMENT_KEY, "another")
    proxy = Proxy(redis_server.port)
    producer = Producer.from_url(f"redis://127.0.0.1:{proxy.port}/0", StreamSettings(partitions=PARTITIONS))
    producer.append(event())
    proxy.retarget(foreign.port)
    proxy.cut()
    with pytest.raises(RedisError) as refused:
        producer.append(event())
    assert isinstance(refused.value, DeploymentMismatchError)
    assert foreign.command("EXISTS", stream_key(TENANT_PARTITION)) == 0
    proxy.retarget(redis_server.port)
    producer.append(event())
    assert runtime.stream.redis.xlen(stream_key(TENANT_PARTITION)) == 2
    foreign.remove()
