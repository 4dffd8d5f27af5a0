"""The doctor: every code is provoked for real, each has a remedy, and a healthy deployment has no findings.

Where a condition cannot be provoked here, such as an older server, the test replaces the value and says so.
"""

import json
import os
import pty
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, insert, make_url, text

from event_stream.events.event import partition_of
from event_stream.streams.stream_keys import DEPLOYMENT_KEY
from migrations import config, migrate_database, upgrade
from projections import schema
from projections.database.engines import writer_engine
from projections.settings import DeadLetterSettings
from projections.transaction import projection_version
from tests.conftest import PARTITIONS, sqlalchemy_url
from tests.support.commands import CommandResult, run_command
from tests.support.events import OTHER_PROJECT, PROJECT, TENANT, body, event
from tests.support.harness import append, append_raw, checkpoints, drain_all
from tests.support.second_projection_version import line
from tests.support.servers import PostgresServer, RedisServer, free_port, wait_until
from tests.support.transaction_pooler import TransactionPooler
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.doctor.check import Finding, Severity
from workers.doctor.context import Context, Limits
from workers.doctor.registry import CHECKS
from workers.doctor.runner import DoctorReport, run_checks
from workers.drain import circuit_breaker
from workers.drain.drainer import Drainer
from workers.drain.drainer import run as run_drain
from workers.jobs.lease import Lease
from workers.maintenance import verify_pass
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime, redis_client
from workers.telemetry.write_probe import PROBE_KEY

Environ = dict[str, str]


@pytest.fixture(scope="module")
def redis_server() -> Iterator[RedisServer]:
    """A server for this file only, because the tests change its settings."""
    server = RedisServer()
    server.start()
    yield server
    server.remove()


@pytest.fixture(scope="module")
def durable_server() -> Iterator[PostgresServer]:
    server = PostgresServer(durable=True)
    server.start()
    yield server
    server.remove()


@pytest.fixture
def durable_url(durable_server: PostgresServer) -> Iterator[str]:
    """A migrated PostgreSQL database without findings."""
    durable_server.execute("CREATE DATABASE examined")
    url = sqlalchemy_url(durable_server.url("examined"))
    migrate_database(url, PARTITIONS)
    yield url
    durable_server.execute("DROP DATABASE examined WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue({"sqlite": "sqlite_url", "postgresql": "durable_url"}[request.param])
    return url


@pytest.fixture
def environ(redis_url: str, database_url: str, tmp_path: Path) -> Environ:
    return {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "PROJECTOR_PARTITIONS": str(PARTITIONS),
        "PROJECTOR_DATA_DIR": str(tmp_path),
    }


@pytest.fixture
def alive(runtime: Runtime) -> Runtime:
    """A deployment with a dispatcher and a worker that have just sent heartbeats."""
    _give_signs_of_life(runtime)
    return runtime


def _give_signs_of_life(runtime: Runtime) -> None:
    Dispatcher(runtime).sweep()
    create_worker(runtime).register_birth()  # type: ignore[no-untyped-call]


def examined(environ: Environ, **changed: Any) -> DoctorReport:
    # Whatever this machine's Python is linked to.
    changed = {"sqlite_version": (3, 51, 3)} | changed
    with closing(replace(Context.from_environ(environ), **changed)) as context:
        return run_checks(context)


def codes(examination: DoctorReport) -> set[str]:
    return {finding.code for finding in examination.findings}


def finding(environ: Environ, code: str, **changed: Any) -> Finding:
    """Return the only finding, which must have this code."""
    (found,) = examined(environ, **changed).findings
    assert found.code == code
    return found


@contextmanager
def configured(runtime: Runtime, **settings: str | int) -> Iterator[None]:
    """Change settings of Redis, and restore them afterwards."""
    redis = runtime.stream.redis
    before = {name: redis.config_get(name.replace("_", "-"))[name.replace("_", "-")] for name in settings}
    for name, value in settings.items():
        redis.config_set(name.replace("_", "-"), value)
    try:
        yield
    finally:
        for name, old in before.items():
            redis.config_set(name.replace("_", "-"), str(old))


only_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
only_postgresql = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


def test_a_healthy_deployment_has_no_findings(alive: Runtime, environ: Environ) -> None:
    found = examined(environ)
    assert found.findings == []
    assert not found.has_errors
    assert found.skipped == []
    absent = "postgres-" if environ["DATABASE_URL"].startswith("sqlite") else "sqlite-"
    assert found.checked == [check.code for check in CHECKS if not check.code.startswith(absent)]


def test_every_code_is_provoked() -> None:
    tests = Path(__file__).parents[1]
    here = Path(__file__).read_text() + "".join(
        (tests / name).read_text()
        for name in ("faults/test_standby.py", "e2e/test_runbook.py", "integration/test_encodings.py")
    )
    assert len({check.code for check in CHECKS}) == len(CHECKS)
    assert [check.code for check in CHECKS if f'"{check.code}"' not in here] == []


def test_every_error_names_a_guarantee() -> None:
    for check in CHECKS:
        assert check.guarantee in {f"G{number}" for number in range(1, 10)} or check.severity == Severity.WARNING


@only_sqlite
def test_examining_changes_nothing_but_a_key_that_expires(alive: Runtime, environ: Environ, sqlite_url: str) -> None:
    def state() -> tuple[dict[Any, bytes | None], bytes]:
        redis = alive.stream.redis
        return {key: redis.dump(key) for key in redis.scan_iter() if key != PROBE_KEY.encode()}, Path(
            str(make_url(sqlite_url).database)
        ).read_bytes()

    before = state()
    examined(environ)
    assert state() == before
    assert 0 < alive.stream.redis.ttl(PROBE_KEY) <= 60


# Redis


@only_sqlite
def test_an_unreachable_redis_is_reported_and_the_database_is_still_examined(
    alive: Runtime, environ: Environ, redis_server: RedisServer
) -> None:
    append_raw(alive, 0, b"nonsense")
    drain_all(alive)
    redis_server.kill()
    try:
        found = examined(environ)
    finally:
        redis_server.start()
    assert codes(found) == {"redis-unreachable", "dead-letters-open"}
    assert found.has_errors
    assert {"redis-aof-off", "worker-missing", "redis-inspection-denied"} <= set(found.skipped)
    assert {"schema-too-old", "sqlite-locked"} <= set(found.checked)


@only_sqlite
@pytest.mark.parametrize(
    ("reported", "names"),
    [
        ({"redis_version": "6.2.14"}, "Redis 6.2.14"),
        ({"redis_version": "7.2.4", "valkey_version": "7.2.8"}, "Valkey 7.2.8"),
        ({"redis_version": "7.0.15"}, None),
        ({"redis_version": "7.2.4", "valkey_version": "8.0.1"}, None),
        ({"redis_version": "10.0.0"}, None),
    ],
)
def test_an_old_server_is_reported_and_its_streams_are_not_examined(
    alive: Runtime, environ: Environ, reported: dict[str, str], names: str | None
) -> None:
    # No wheel contains an old server, so the test replaces the version that a new one reports.
    with closing(Context.from_environ(environ)) as context:
        info: dict[str, Any] = alive.stream.redis.info()
        info.pop("valkey_version", None)
        vars(context)["_info"] = info | reported
        found = run_checks(context)
    assert [each.message for each in found.findings if each.code == "redis-too-old"] == ([names] if names else [])
    assert ("worker-missing" in found.skipped) == (names is not None)


@only_sqlite
def test_a_cluster_is_reported(environ: Environ) -> None:
    server = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server.start()
    try:
        found = examined(environ | {"REDIS_URL": server.url})
    finally:
        server.remove()
    assert "redis-cluster" in codes(found)
    assert "worker-missing" in found.skipped


@only_sqlite
def test_the_redis_of_another_deployment_is_an_error(alive: Runtime, environ: Environ) -> None:
    alive.stream.redis.set(DEPLOYMENT_KEY, "another")
    found = finding(environ, "deployment-differs")
    assert (found.severity, found.guarantee) == ("error", "G1")
    assert "Redis at 127.0.0.1:" in found.message
    assert f"has id another, the database {make_url(environ['DATABASE_URL']).database} has id" in found.message


@only_postgresql
def test_a_server_without_an_identifier_is_reported(
    alive: Runtime, environ: Environ, looker_url: str, durable_server: PostgresServer
) -> None:
    with psycopg.connect(durable_server.url("examined"), autocommit=True) as connection:
        connection.execute("GRANT pg_read_all_stats TO looker")
        connection.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
        found = finding(environ | {"DATABASE_URL": looker_url}, "database-unidentified")
        assert found.severity == "warning"
        connection.execute(found.remedy.strip("`").encode())
    assert examined(environ | {"DATABASE_URL": looker_url}).findings == []


@only_sqlite
def test_a_replica_is_reported_with_its_primary(alive: Runtime, environ: Environ) -> None:
    port = free_port()
    alive.stream.redis.replicaof("127.0.0.1", str(port))
    try:
        found, refused = examined(environ).findings
    finally:
        alive.stream.redis.replicaof("NO", "ONE")
    assert (found.code, refused.code) == ("redis-replica", "redis-refuses-writes")
    assert refused.message == "READONLY You can't write against a read only replica"
    assert (found.severity, found.guarantee, found.message) == ("error", "G7", "role is slave")
    assert f"127.0.0.1:{port}" in found.remedy


@only_sqlite
def test_no_append_only_file_is_an_error(alive: Runtime, environ: Environ) -> None:
    with configured(alive, appendonly="no"):
        found = finding(environ, "redis-aof-off")
    assert (found.severity, found.guarantee, found.message) == ("error", "G1", "aof_enabled is 0")
    assert "CONFIG SET appendonly yes" in found.remedy


@only_sqlite
def test_an_append_only_file_that_cannot_be_written_is_an_error(environ: Environ, tmp_path: Path) -> None:
    # A file size limit simulates a full disk; the server must get an error, not a signal.
    server = RedisServer("--appendfsync", "everysec")
    wrapper = tmp_path / "server"
    wrapper.write_text(f"#!/bin/sh\ntrap '' XFSZ\nulimit -f 8\nexec {server.binary} \"$@\"\n")
    wrapper.chmod(0o755)
    server.binary = str(wrapper)
    server.start()
    client = redis_client(server.url)
    try:
        client.set("x", "y" * 100_000)
        wait_until(lambda: client.info()["aof_last_write_status"] == "err", "the write has failed")
        found = codes(examined(environ | {"REDIS_URL": server.url}))
    finally:
        client.close()
        server.remove()
    assert "redis-aof-failing" in found


@only_sqlite
@pytest.mark.parametrize(
    ("value", "code", "severity"),
    [("no", "redis-fsync-no", "error"), ("everysec", "redis-fsync-everysec", "warning")],
)
def test_syncing_less_than_always_is_reported(
    alive: Runtime, environ: Environ, value: str, code: str, severity: str
) -> None:
    with configured(alive, appendfsync=value):
        found = finding(environ, code)
    assert (found.severity, found.guarantee, found.message) == (severity, "G1", f"appendfsync is {value}")


@only_sqlite
def test_a_policy_that_evicts_is_an_error(alive: Runtime, environ: Environ) -> None:
    with configured(alive, maxmemory_policy="volatile-lru"):
        found = finding(environ, "redis-may-evict")
    assert (found.severity, found.guarantee) == ("error", "G1")
    assert found.message == "maxmemory-policy is volatile-lru, maxmemory 0 bytes"


@only_sqlite
def test_evicted_keys_are_reported_until_the_counter_is_reset(runtime: Runtime, environ: Environ) -> None:
    redis = runtime.stream.redis
    with configured(runtime, maxmemory=redis.info()["used_memory"] + 500_000, maxmemory_policy="allkeys-lru"):
        for number in range(200):
            redis.set(f"key {number}", b"x" * 10_000)
    evicted = redis.info()["evicted_keys"]
    assert evicted > 0
    redis.flushall()
    _give_signs_of_life(runtime)
    assert finding(environ, "redis-evicted").message == f"evicted_keys is {evicted}"
    redis.config_resetstat()
    assert examined(environ).findings == []


@only_sqlite
def test_nearly_exhausted_memory_is_reported(alive: Runtime, environ: Environ) -> None:
    assert examined(environ).findings == []  # from now on the server holds the scripts of an examination
    with configured(alive, maxmemory=alive.stream.redis.info()["used_memory"] + 100_000):
        found = finding(environ, "redis-nearly-full")
    assert found.severity == "warning"


@only_sqlite
def test_a_clock_difference_is_reported_and_one_that_refuses_events_is_an_error(
    alive: Runtime, environ: Environ
) -> None:
    # There is only one clock on this machine, so the test sets the other.
    found = finding(environ, "redis-clock-differs", clock=lambda: time.time() + 20)
    assert found.severity == "warning"
    assert found.message.startswith("Redis's clock is -")
    assert codes(examined(environ, clock=lambda: time.time() + 1000)) == {"redis-clock-differs"}
    slow_clock = examined(environ, clock=lambda: time.time() - 1000)
    assert codes(slow_clock) == {"redis-clock-differs", "sqlite-clock-slow"}
    assert slow_clock.findings[0].code == "sqlite-clock-slow"  # errors come first
    assert slow_clock.has_errors


def test_a_row_that_many_distinct_ids_have_made_large_is_reported(alive: Runtime, environ: Environ) -> None:
    for project, count in ((PROJECT, 200), (OTHER_PROJECT, 150)):
        ids = ({"logSourceId": f"log_{number}"} for number in range(count))
        append(alive, *(event("log_source.removed.v1", data, projectid=project) for data in ids))
    drain_all(alive)
    assert examined(environ).findings == []
    (found,) = examined(environ, limits=Limits(text_bytes=10_000)).findings
    assert (found.code, found.severity) == ("large-rows", "warning")
    assert found.message.startswith("table project has rows with large log_sources: 2; the largest has 0.0 MiB (tenant")
    assert f"project_id {PROJECT})" in found.message
    assert "(`log_sources` of table `project`)" in found.remedy


@only_postgresql
def test_the_clock_of_the_database_is_compared_too(alive: Runtime, environ: Environ) -> None:
    # There is only one clock on this machine, so the test sets the other.
    found = examined(environ, clock=lambda: time.time() + 20)
    assert codes(found) == {"redis-clock-differs", "postgres-clock-differs"}
    assert not found.has_errors


@only_sqlite
def test_slow_responses_are_not_taken_for_a_wrong_clock(environ: Environ) -> None:
    ticks = iter([100.0, 120.0])
    with closing(replace(Context.from_environ(environ), clock=lambda: next(ticks))) as context:
        assert context.clock_difference_s(lambda: 110.0) == 0.0


@only_sqlite
def test_another_number_of_partitions_in_redis_is_an_error(alive: Runtime, environ: Environ) -> None:
    alive.stream.redis.set("events:partitions", 5)
    found = examined(environ)
    assert codes(found) == {"redis-partitions-differ"}
    assert found.findings[0].message == "key events:partitions is 5, PROJECTOR_PARTITIONS is 4"
    assert "set `PROJECTOR_PARTITIONS=5`" in found.findings[0].remedy
    assert "DEL events:partitions" in found.findings[0].remedy
    alive.stream.redis.delete("events:partitions")
    assert examined(environ).findings == []


@only_sqlite
@pytest.mark.parametrize(
    ("refused", "unchecked"),
    [
        ("-config", {"redis-fsync-no", "redis-fsync-everysec"}),
        ("-info", {"redis-too-old", "redis-aof-off", "redis-may-evict", "redis-evicted", "redis-replica"}),
    ],
)
def test_a_redis_command_that_is_not_permitted_is_reported_and_the_rest_is_examined(
    alive: Runtime, environ: Environ, refused: str, unchecked: set[str]
) -> None:
    redis: Any = alive.stream.redis
    redis.acl_setuser("looker", True, passwords=["+hush-hush"], keys=["*"], channels=["*"], commands=["+@all", refused])
    url = environ["REDIS_URL"].replace("redis://", "redis://looker:hush-hush@")
    try:
        found = examined(environ | {"REDIS_URL": url})
    finally:
        redis.acl_deluser("looker")
    assert codes(found) == {"redis-inspection-denied"}
    assert not found.has_errors
    assert unchecked <= set(found.skipped)
    assert "worker-missing" in found.checked
    assert all(code in found.findings[0].message for code in unchecked)
    assert "+config|get" in found.findings[0].remedy


# The database


@only_postgresql
def test_an_unreachable_database_is_reported_and_redis_is_still_examined(alive: Runtime, environ: Environ) -> None:
    url = f"postgresql://somebody:hush-hush@127.0.0.1:{free_port()}/nowhere"
    with configured(alive, appendonly="no"):
        found = examined(environ | {"DATABASE_URL": url})
    assert codes(found) == {"database-unreachable", "redis-aof-off"}
    assert {"schema-too-old", "postgres-fsync-off", "worker-missing"} <= set(found.skipped)
    assert "hush-hush" not in found.model_dump_json()


@only_sqlite
def test_a_file_that_is_not_a_database_is_reported(alive: Runtime, environ: Environ, tmp_path: Path) -> None:
    file = tmp_path / "letter.db"
    file.write_text("Dear database, " * 500)
    found = finding(environ | {"DATABASE_URL": f"sqlite:///{file}"}, "database-unreachable")
    assert "file is not a database" in found.message


@only_sqlite
def test_a_missing_database_is_reported_and_not_created(alive: Runtime, environ: Environ, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "projector.db"
    found = finding(environ | {"DATABASE_URL": f"sqlite:///{file}"}, "schema-too-old")
    assert found.message == f"there is no database at {file}"
    assert not file.parent.exists()


@only_sqlite
def test_missing_migrations_are_an_error(
    alive: Runtime, environ: Environ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    engine = writer_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE of_somebody_else (x)"))
    assert (
        finding(environ | {"DATABASE_URL": url}, "schema-too-old").message
        == f"the schema is missing, needed is {schema.REVISION}"
    )
    upgrade(config(engine))
    engine.dispose()
    monkeypatch.setattr(schema, "REVISIONS", ("0001", "0002"))
    monkeypatch.setattr(schema, "REVISION", "0002")
    found = finding(environ | {"DATABASE_URL": url}, "schema-too-old")
    assert (found.message, found.severity) == ("the schema is 0001, needed is 0002", "error")
    assert "projector migrate" in found.remedy


@only_sqlite
def test_a_database_of_another_application_is_an_error(alive: Runtime, environ: Environ, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/foreign.db"
    engine = writer_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("CREATE TABLE project (id INTEGER)"))
    engine.dispose()
    found = examined(environ | {"DATABASE_URL": url})
    assert codes(found) == {"schema-foreign"}
    assert "the tables `alembic_version`, `project`" in found.findings[0].message
    assert "new database" in found.findings[0].remedy


def test_a_schema_of_a_newer_release_is_reported_and_the_rest_is_examined(alive: Runtime, environ: Environ) -> None:
    with alive.writer.begin() as connection:
        connection.execute(text("UPDATE projector_schema_version SET version_num = '9999'"))
    assert finding(environ, "schema-newer").severity == "warning"


def test_another_number_of_partitions_in_the_database_is_an_error(alive: Runtime, environ: Environ) -> None:
    found = examined(environ | {"PROJECTOR_PARTITIONS": "5"})
    assert codes(found) == {"database-partitions-differ", "redis-partitions-differ"}
    assert all("set `PROJECTOR_PARTITIONS=4`" in each.remedy for each in found.findings)
    assert "worker-missing" in found.skipped


def test_open_dead_letters_are_reported_as_a_warning(alive: Runtime, environ: Environ) -> None:
    append_raw(alive, 0, b"nonsense", body(event() | {"type": "unknown.v1"}))
    drain_all(alive)
    found = finding(environ, "dead-letters-open")
    assert found.severity == "warning"
    assert "1 not_json" in found.message


def test_what_verification_has_not_looked_at_is_reported(alive: Runtime, environ: Environ) -> None:
    alive.queue.connection.hset(verify_pass.UNLOOKED_KEY, "2", "1000")
    found = finding(environ, "verification-overdue")
    assert "the event log of partition 2" in found.message


def test_dead_letters_that_are_only_counted_are_reported_as_advice(alive: Runtime, environ: Environ) -> None:
    append_raw(alive, 0, *(b"nonsense %d" % number for number in range(5)))
    drain_all(replace(alive, dead_letters=DeadLetterSettings(kept_max=2)))
    found = next(each for each in examined(environ).findings if each.code == "dead-letters-not-kept")
    assert found.severity is Severity.WARNING
    assert "3 not_json" in found.message


# PostgreSQL


def test_postgresql_that_does_not_sync_is_an_error(redis_url: str, postgres_url: str, environ: Environ) -> None:
    found = examined(environ | {"DATABASE_URL": postgres_url})
    (unsynced,) = [each for each in found.findings if each.code == "postgres-fsync-off"]
    assert (unsynced.severity, unsynced.guarantee, unsynced.message) == ("error", "G1", "fsync is off")


@only_postgresql
def test_torn_pages_are_an_error(alive: Runtime, environ: Environ, durable_server: PostgresServer) -> None:
    def reload(statement: str, value: str) -> None:
        durable_server.execute(statement)
        durable_server.execute("SELECT pg_reload_conf()")
        with psycopg.connect(durable_server.url(), autocommit=True) as connection:
            wait_until(
                lambda: connection.execute("SHOW full_page_writes").fetchone() == (value,), "the setting is in force"
            )

    reload("ALTER SYSTEM SET full_page_writes = off", "off")
    try:
        assert finding(environ, "postgres-full-page-writes-off").severity == "error"
    finally:
        reload("ALTER SYSTEM RESET full_page_writes", "on")


@only_postgresql
def test_commits_that_do_not_wait_for_the_disk_are_reported(
    alive: Runtime, environ: Environ, durable_server: PostgresServer
) -> None:
    durable_server.execute("ALTER DATABASE examined SET synchronous_commit = off")
    found = finding(environ, "postgres-synchronous-commit-off")
    assert found.severity == "warning"
    durable_server.execute(found.remedy.split("`")[1])
    assert examined(environ).findings == []


@only_postgresql
def test_a_database_that_takes_no_writes_is_an_error(
    alive: Runtime, environ: Environ, durable_server: PostgresServer
) -> None:
    durable_server.execute("ALTER DATABASE examined SET default_transaction_read_only = on")
    found = finding(environ, "postgres-read-only")
    assert (found.severity, found.message) == ("error", "default_transaction_read_only is on")
    durable_server.execute(found.remedy.split("`")[1])
    assert examined(environ).findings == []


@only_postgresql
def test_a_transaction_left_open_is_an_error_and_its_remedy_ends_it(
    alive: Runtime, environ: Environ, durable_server: PostgresServer
) -> None:
    limits = Limits(transaction_open_s=0.2)
    url = durable_server.url("examined")
    with closing(psycopg.connect(url, application_name="forgetful")) as forgetful:
        forgetful.execute("SELECT 1")
        assert examined(environ).findings == []  # the transaction is not old enough
        wait_until(lambda: examined(environ, limits=limits).findings != [], "the entry is old enough")
        found = finding(environ, "postgres-transaction-left-open", limits=limits)
        assert (found.severity, found.guarantee) == ("error", "G8")
        assert "(forgetful)" in found.message
        assert str(forgetful.info.backend_pid) in found.remedy
        durable_server.execute(found.remedy.split("`")[1])
        assert examined(environ, limits=limits).findings == []


@only_postgresql
def test_a_transaction_left_open_is_found_before_the_migration_that_it_would_hold_up(
    alive: Runtime, environ: Environ, durable_server: PostgresServer
) -> None:
    durable_server.execute("CREATE DATABASE not_migrated")
    not_migrated = environ | {"DATABASE_URL": durable_server.url("not_migrated")}
    limits = Limits(transaction_open_s=0)
    with closing(psycopg.connect(durable_server.url("not_migrated"), application_name="forgetful")) as forgetful:
        forgetful.execute("SELECT 1")
        assert {each.code for each in examined(not_migrated, limits=limits).findings} >= {
            "schema-too-old",
            "postgres-transaction-left-open",
        }


@pytest.fixture
def looker_url(durable_url: str, durable_server: PostgresServer) -> Iterator[str]:
    """The database as seen by a user with few rights."""
    durable_server.execute("CREATE ROLE looker LOGIN")
    with psycopg.connect(durable_server.url("examined"), autocommit=True) as connection:
        connection.execute(
            "GRANT SELECT ON projector_schema_version, projection_version, checkpoint, dead_letter_count, deployment, project,"
            " tenant, analysis_trend, lost_acknowledgement, project_details TO looker"
        )
    yield durable_url.replace("postgres@", "looker@")
    with psycopg.connect(durable_server.url("examined"), autocommit=True) as connection:
        connection.execute("DROP OWNED BY looker")
    durable_server.execute("DROP ROLE looker")


@only_postgresql
def test_hidden_sessions_are_reported(
    alive: Runtime, environ: Environ, looker_url: str, durable_server: PostgresServer
) -> None:
    assert looker_url != environ["DATABASE_URL"]
    found = finding(environ | {"DATABASE_URL": looker_url}, "postgres-sessions-hidden")  # `alive` has open sessions
    assert found.severity == "warning"
    durable_server.execute(found.remedy.strip("`"))
    assert examined(environ | {"DATABASE_URL": looker_url}).findings == []


@only_postgresql
def test_a_query_that_is_not_permitted_is_reported_and_the_rest_is_examined(
    alive: Runtime, environ: Environ, looker_url: str, durable_server: PostgresServer
) -> None:
    with psycopg.connect(durable_server.url("examined"), autocommit=True) as connection:
        connection.execute("REVOKE SELECT ON dead_letter_count FROM looker")
        connection.execute("GRANT pg_read_all_stats TO looker")
    found = examined(environ | {"DATABASE_URL": looker_url})
    assert codes(found) == {"database-inspection-denied"}
    assert "permission denied for table dead_letter_count; not checked: dead-letters-open" in found.findings[0].message
    assert "postgres-fsync-off" in found.checked


POOLED = "postgres-transaction-pooling"
PLANS = "postgres-plan-settings-ignored"


@contextmanager
def pooled(environ: Environ, server: PostgresServer, *, keeps_statements: bool) -> Iterator[Environ]:
    pooler = TransactionPooler(server.port, keeps_statements=keeps_statements)
    try:
        yield environ | {"DATABASE_URL": environ["DATABASE_URL"].replace(f":{server.port}", f":{pooler.port}")}
    finally:
        pooler.close()


@only_postgresql
def test_a_pooler_that_mixes_up_prepared_statements_is_an_error(
    alive: Runtime, environ: Environ, durable_server: PostgresServer
) -> None:
    with pooled(environ, durable_server, keeps_statements=False) as behind_pooler:
        found = examined(behind_pooler)
    assert codes(found) == {"postgres-prepared-statements-fail", POOLED, "postgres-session-limits-ignored", PLANS}
    assert (found.findings[0].severity, found.findings[0].guarantee) == ("error", "G7")
    assert found.findings[0].message == 'prepared statement "_pg3_0" already exists'
    assert found.skipped == []


@only_postgresql
def test_limits_that_a_pooler_drops_are_warnings_until_the_role_has_them(
    alive: Runtime, environ: Environ, durable_server: PostgresServer
) -> None:
    with pooled(environ, durable_server, keeps_statements=True) as behind_pooler:
        found = examined(behind_pooler)
    assert codes(found) == {POOLED, "postgres-session-limits-ignored", PLANS}
    assert not found.has_errors
    limits = [each for each in found.findings if each.code == "postgres-session-limits-ignored"]
    assert [each.message for each in limits] == [
        "idle_in_transaction_session_timeout is 0, not 10s",
        "lock_timeout is 0, not 5s",
        "statement_timeout is 0, not 20s",
    ]
    for each in limits:
        durable_server.execute(each.remedy.split("`")[1])
    durable_server.execute("ALTER ROLE postgres IN DATABASE examined SET lock_timeout = '900ms'")
    with pooled(environ, durable_server, keeps_statements=True) as behind_pooler:
        assert codes(examined(behind_pooler)) == {POOLED, PLANS}
        durable_server.execute("ALTER ROLE postgres IN DATABASE examined SET lock_timeout = '6s'")
    with pooled(environ, durable_server, keeps_statements=True) as behind_pooler:
        assert codes(examined(behind_pooler)) == {POOLED, PLANS, "postgres-session-limits-ignored"}


# SQLite and this host


@only_sqlite
def test_a_journal_that_is_not_write_ahead_is_an_error(
    alive: Runtime, environ: Environ, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(str(make_url(sqlite_url).database))) as source, closing(sqlite3.connect(copy)) as to:
        source.backup(to)
        to.execute("PRAGMA journal_mode = DELETE")
    both = examined(environ | {"DATABASE_URL": f"sqlite:///file:{copy}?vfs=unix-dotfile&uri=true"})
    assert codes(both) == {"sqlite-not-wal", "deployment-copied"}
    found = both.findings[0]
    assert (found.severity, found.message) == ("error", "journal_mode is delete")


@only_sqlite
def test_a_file_that_takes_no_writes_is_an_error(
    alive: Runtime, environ: Environ, sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = make_url(sqlite_url).database
    found = finding(environ | {"DATABASE_URL": f"sqlite:///file:{file}?mode=ro&uri=true"}, "sqlite-read-only")
    assert (found.severity, found.message) == ("error", "attempt to write a readonly database")
    assert str(file) in found.remedy


@only_sqlite
def test_a_write_lock_held_by_another_process_is_an_error(alive: Runtime, environ: Environ, sqlite_url: str) -> None:
    with closing(sqlite3.connect(str(make_url(sqlite_url).database), isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        found = finding(environ, "sqlite-locked", limits=Limits(lock_wait_s=0.1))
        assert (found.severity, found.message) == ("error", "database is locked for 0.1 s")
        holder.execute("ROLLBACK")
        assert examined(environ).findings == []


@only_sqlite
def test_a_disk_with_little_free_space_is_reported(alive: Runtime, environ: Environ, tmp_path: Path) -> None:
    # The test raises the limit instead of filling the disk.
    found = finding(environ, "disk-nearly-full", limits=Limits(disk_free_bytes=2**60))
    assert found.severity == "warning"
    assert str(tmp_path) in found.remedy


# The work


@only_sqlite
def test_missing_workers_and_dispatchers_are_an_error_just_as_in_status(runtime: Runtime, environ: Environ) -> None:
    found = examined(environ)
    assert codes(found) == {"dispatcher-missing", "worker-missing"}
    _is_what_status_says(found, runtime)


@only_sqlite
def test_a_stalled_partition_is_an_error_just_as_in_status(alive: Runtime, environ: Environ) -> None:
    an_hour_ago_ms = int(time.time() - 3600) * 1000
    alive.stream.redis.xadd("events:{2}", {"event": b"x"}, id=f"{an_hour_ago_ms}-0")
    found = examined(environ)
    assert codes(found) == {"partition-stalled"}
    assert found.findings[0].message.startswith("partition 2 is stalled, 1 entry")


@only_sqlite
def test_entry_ids_that_are_ahead_are_a_warning_and_the_largest_id_is_an_error(
    alive: Runtime, environ: Environ
) -> None:
    alive.stream.redis.xadd("events:{1}", {"noop": b""}, id="9999999999999-0")
    alive.stream.redis.xadd("events:{2}", {"noop": b""}, id=f"{2**64 - 1}-{2**64 - 1}")
    drain_all(alive)
    found = [each for each in examined(environ).findings if each.code.startswith("entry-ids-")]
    assert [(each.code, each.severity, each.guarantee) for each in found] == [
        ("entry-ids-exhausted", "error", "G7"),
        ("entry-ids-ahead", "warning", None),
    ]
    assert found[0].message.startswith("partition 2 accepts no more entries")
    assert found[1].message.startswith("partition 1 gives ids that are 8,")


@only_sqlite
def test_a_stream_that_nothing_reads_is_a_warning(alive: Runtime, environ: Environ) -> None:
    alive.stream.redis.xadd("events:{05}", {"event": body(event())})
    found = finding(environ, "stream-unread")
    assert (found.severity, found.message) == ("warning", "nothing reads the 1 entries of the stream 'events:{05}'")


@only_sqlite
def test_a_partition_that_keeps_failing_is_an_error_just_as_in_status(alive: Runtime, environ: Environ) -> None:
    append(alive, event())
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    failing = Drainer(replace(alive, writer=nowhere), partition_of(TENANT, alive.stream.partitions))
    while failing.batch_size.consecutive_failures < 3:
        assert "partition-failing" not in codes(examined(environ))
        run_drain(failing, Lease(alive.queue.connection, failing.partition, "mine"), budget_s=0.2)
    found = examined(environ)
    assert codes(found) == {"partition-failing"}
    assert "failed 3 times in a row: OperationalError" in found.findings[0].message
    _is_what_status_says(found, alive)


@only_sqlite
def test_an_open_breaker_is_an_error_just_as_in_status(alive: Runtime, environ: Environ) -> None:
    circuit_breaker.publish(alive.stream.redis, "KeyError in tenant")
    found = examined(environ)
    assert codes(found) == {"breaker-open"}
    assert "KeyError in tenant" in found.findings[0].message
    _is_what_status_says(found, alive)


def _is_what_status_says(examination: DoctorReport, runtime: Runtime) -> None:
    found = problems.all_problems(read_status(runtime))
    assert len(found) == len(examination.findings) > 0
    for problem in found:
        assert any(problem.startswith(each.message) for each in examination.findings), problem
    assert examination.has_errors


@only_sqlite
@pytest.mark.parametrize(
    ("stored", "code", "said"),
    [
        (
            line(analysis_trend="1 incomplete"),
            "rebuild-pending",
            "analysis_trend to version 1 for 1",
        ),
        (
            line(analysis_trend="2"),
            "release-too-old",
            "analysis_trend has rows of a newer release",
        ),
    ],
)
def test_rows_of_another_release_are_reported(
    alive: Runtime, environ: Environ, stored: str, code: str, said: str
) -> None:
    with alive.writer.begin() as connection:
        connection.execute(insert(projection_version.table).values(tenant_id=TENANT, versions=stored))
    found = finding(environ, code)
    assert found.severity == "error"
    assert said in found.message


@only_sqlite
def test_lost_entries_are_reported(alive: Runtime, environ: Environ) -> None:
    append_raw(alive, 1, *(body(event()) for _ in range(3)))
    assert alive.stream.redis.xtrim("events:{1}", maxlen=0, approximate=False) == 3
    found = finding(environ, "entries-lost")
    assert (found.severity, found.message) == ("warning", "3 of partition 1")


@only_sqlite
def test_a_stream_that_is_not_trimmed_is_an_error(alive: Runtime, environ: Environ) -> None:
    an_hour_ago_ms = int(time.time() - 3600) * 1000
    for number in range(400):
        alive.stream.redis.xadd("events:{3}", {"event": b"x"}, id=f"{an_hour_ago_ms}-{number + 1}")
    assert codes(examined(environ)) == {"partition-stalled"}
    drain_all(alive)
    (found,) = [each for each in examined(environ).findings if each.code == "stream-untrimmed"]
    assert (found.severity, found.guarantee) == ("error", "G8")
    assert found.message == "partition 3 holds 400 projected entries"
    at = checkpoints(alive)[3]
    alive.stream.trim(3, at.position, at.position, at.position_digest)
    assert codes(examined(environ)) == {"dead-letters-open"}


@only_sqlite
@pytest.mark.parametrize(
    ("version", "has_bug"),
    [
        ((3, 40, 1), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
    ],
)
def test_a_linked_sqlite_that_may_corrupt_a_database_is_a_warning(
    alive: Runtime, environ: Environ, version: tuple[int, int, int], has_bug: bool
) -> None:
    found = examined(environ, sqlite_version=version)
    assert codes(found) == ({"sqlite-wal-reset-bug"} if has_bug else set())
    assert not found.has_errors


def test_the_doctor_looks_at_the_sqlite_that_this_python_is_linked_to(environ: Environ) -> None:
    with closing(Context.from_environ(environ)) as context:
        assert context.sqlite_version == sqlite3.sqlite_version_info


# The command


Run = Callable[..., CommandResult]


@pytest.fixture
def run(environ: Environ) -> Run:
    def call(*arguments: str, **changed: str) -> CommandResult:
        return run_command(os.environ | environ | changed, "doctor", *arguments)

    return call


@only_postgresql
def test_the_command_prints_one_line_if_all_is_well_and_lists_its_checks_if_verbose(alive: Runtime, run: Run) -> None:
    done, verbose = run(), run("--verbose")
    applicable = [check for check in CHECKS if not check.code.startswith("sqlite-")]
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"No guarantee is in danger: {len(applicable)} checks found nothing.\n"
    assert (verbose.returncode, verbose.stdout.splitlines()[0]) == (0, done.stdout.strip())
    assert [line.split()[0] for line in verbose.stdout.splitlines()[1:]] == [check.code for check in applicable]


@only_postgresql
def test_a_warning_alone_ends_with_0_and_an_error_with_1(alive: Runtime, run: Run) -> None:
    with configured(alive, appendfsync="everysec"):
        done = run()
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("warning G1 redis-fsync-everysec: appendfsync is everysec -> `redis-cli CONFIG")
        with configured(alive, appendonly="no"):
            reported = run("--json")
    assert reported.returncode == 1
    answer = json.loads(reported.stdout)
    assert set(answer) == {"findings", "checked", "skipped"}
    (found,) = answer["findings"]
    assert set(found) == {"code", "severity", "guarantee", "message", "remedy"}
    assert (found["code"], found["severity"], found["guarantee"]) == ("redis-aof-off", "error", "G1")
    assert "schema-too-old" in answer["checked"]


@only_sqlite
def test_wrong_settings_end_with_2(run: Run) -> None:
    for wrong in ({"PROJECTOR_PARTITIONS": "0"}, {"DATABASE_URL": "mysql://x:hush-hush@y"}):
        done = run(**wrong)
        assert (done.returncode, done.stdout) == (2, "")
        assert "hush-hush" not in done.stderr
        assert len(done.stderr.splitlines()) == 1


@only_sqlite
def test_secrets_are_not_shown(run: Run, redis_server: RedisServer) -> None:
    url = redis_server.url.replace("redis://", "redis://nobody:hush-hush@")
    done = run(REDIS_URL=url)
    assert done.returncode == 1
    assert done.stdout.startswith("error G7 redis-unreachable: AuthenticationError")
    assert "hush-hush" not in done.stdout + done.stderr


@pytest.mark.full
@only_sqlite
def test_a_terminal_gets_the_findings_in_colours(environ: Environ) -> None:
    ours, theirs = pty.openpty()
    variables = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "doctor"],
        env=variables | environ | {"TERM": "xterm", "COLUMNS": "160"},
        stdout=theirs,
    )
    os.close(theirs)
    shown = _read_all(ours)
    assert process.wait(60) == 1
    assert "\x1b[" in shown
    assert "worker-missing" in shown


def _read_all(terminal: int) -> str:
    chunks = []
    try:
        while chunk := os.read(terminal, 65_536):
            chunks.append(chunk)
    except OSError:  # a closed pseudo-terminal
        pass
    os.close(terminal)
    return b"".join(chunks).decode()
