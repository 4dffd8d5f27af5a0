"""The how-to pages as written: their statements create the roles, and their commands run with those rights only."""

import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
from psycopg.errors import AdminShutdown, InsufficientPrivilege
from redis import Redis
from redis.exceptions import NoPermissionError
from sqlalchemy import make_url, text

from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from api_stub.routes.registry import READS
from event_stream import Producer
from event_stream.events.event import partition_of
from event_stream.settings import StreamSettings
from event_stream.streams.stream_keys import stream_key
from migrations import migrate_database
from projections.database import idle_lock_holders
from projections.database.engines import reader_engine
from tests.conftest import sqlalchemy_url
from tests.support.api_client import count_equal_answers
from tests.support.deployment import PROJECTOR, Deployment
from tests.support.events import NOW_US, TENANT, event
from tests.support.harness import append, closing_runtime, drain_all
from tests.support.invariants import assert_counted_once, assert_counters_add_up
from tests.support.oracle import Oracle
from tests.support.processes import start_module
from tests.support.servers import PostgresServer, RedisServer, free_port, wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker as working
from workers.doctor.context import Context
from workers.doctor.runner import run_checks
from workers.reporting.overview import read_overview
from workers.reporting.problems import all_problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

FOLDER = Path(__file__).parents[2] / "docs" / "how-to"
PAGE = "\n".join((FOLDER / f"{name}.md").read_text() for name in ("deploy", "run-book", "upgrade", "restore"))
PARTITIONS = 4
TENANT_PARTITION = partition_of(TENANT, PARTITIONS)
KEY = stream_key(TENANT_PARTITION)
MADE = [event("project.created.v1"), event("log_source.added.v1"), *(event() for _ in range(20))]
# What the doctor probes with the users of other processes, or may not look at.
EXPECTED_DENIALS = {
    *((user, "config|get") for user in ("worker", "dispatcher", "api")),
    *((user, "xtrim") for user in ("worker", "api")),
    *((user, stream_key(0)) for user in ("worker", "api")),
    *(("dispatcher", name) for name in ("blmove",)),
    *(("api", name) for name in ("blmove", "ping")),
}
pytestmark = pytest.mark.xdist_group("runbook")  # one deployment for all


def blocks(info: str) -> list[str]:
    """Return the fenced blocks that carry exactly these words."""
    found: list[str] = re.findall(rf"^```{info}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, info
    return found


@dataclass
class Restricted:
    """A deployment whose processes are the role `projector`, on a database that `projector_owner` has migrated."""

    server: PostgresServer
    up: Deployment

    def url(self, role: str) -> str:
        return self.server.url("projector").replace("postgres@", f"{role}@")

    def session(self, role: str) -> "psycopg.Connection[Any]":
        return psycopg.connect(self.url(role), autocommit=True)

    def run_as(self, role: str) -> None:
        with self.session(role) as session:
            for statements in blocks(f"sql run as {role}"):
                session.execute(statements.encode())


@pytest.fixture(scope="module")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restricted]:
    server = PostgresServer(durable=True)  # otherwise the doctor has a finding
    server.start()
    for block in blocks("sql run as postgres"):
        for statement in block.split(";\n"):
            if statement:
                server.execute(statement)
    made = Restricted(
        server, Deployment(tmp_path_factory.mktemp("runbook") / "data", PROJECTOR_PARTITIONS=str(PARTITIONS))
    )
    migrate_database(sqlalchemy_url(made.url("projector_owner")), PARTITIONS)
    made.run_as("projector_owner")
    made.up.environ["DATABASE_URL"] = made.url("projector")
    made.up.start()
    made.up.await_ready()
    wait_until(lambda: made.up.get("/healthz/projector").status_code == 200, "all processes send heartbeats")
    yield made
    made.up.remove()
    server.remove()


def test_the_commands_of_the_pages_work(restricted: Restricted) -> None:
    up = restricted.up
    folder = up.directory.parent
    (folder / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in MADE))
    environ = up.environ | up.variables() | {"PATH": f"{Path(PROJECTOR).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        command = ["sh", "-eu", "-c", script]
        return subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    scripts = blocks("sh run")
    assert len(scripts) >= 8
    with ThreadPoolExecutor(2) as executor:
        for script, done in zip(scripts, executor.map(run, scripts), strict=True):
            assert done.returncode == 0, script + done.stdout + done.stderr


def test_drains_reads_and_status_need_no_more_rights(restricted: Restricted) -> None:
    """A worker's drain as `projector`; reads over HTTP; reads and status as `projector_reader`."""
    up = restricted.up
    with opened(restricted) as runtime:
        producer = Producer(runtime.stream, runtime.settings)
        last = producer.append_many(MADE)[-1]
        wait_until(lambda: producer.is_projected(last), "all events of one tenant are projected", 60)
        assert count_equal_answers(runtime, Oracle(MADE)) == 4
        found = read_status(runtime)
        assert all_problems(found) == []
        busiest = read_overview(runtime).tenants.by_traffic
        assert busiest is None  # this role does not see the log, and status says so instead of failing
        assert sum(each.applied for each in found.partitions) == len(MADE)
        with runtime.writer.begin() as connection:
            key, _ = keys.create(connection, KeyKind.ORG, TENANT, None, frozenset({"config:read"}), NOW_US)
    assert up.data("/v1/config/projects/checkout-api/stats", key)["logSourceCount"] == 1


@contextmanager
def opened(restricted: Restricted) -> Iterator[Runtime]:
    """Open the connections of a process: write as `projector`, read as `projector_reader`."""
    reader = reader_engine(sqlalchemy_url(restricted.url("projector_reader")))
    with closing_runtime(Runtime.from_environ(restricted.up.environ | restricted.up.variables())) as runtime:
        try:
            yield replace(runtime, reader=reader)
        finally:
            reader.dispose()


def test_a_session_that_waits_for_a_claim_may_end_only_sessions_of_its_own_role(restricted: Restricted) -> None:
    end_idle_now = text(idle_lock_holders._TERMINATE.text.replace("10 s", "0 s"))
    with restricted.session("projector") as idle, restricted.session("projector_owner") as other:
        for partition, session in enumerate((idle, other)):
            session.execute("BEGIN")
            session.execute("SELECT FROM checkpoint WHERE partition = %s FOR UPDATE", (partition,))
        with opened(restricted) as runtime, runtime.writer.begin() as connection:
            assert connection.scalar(end_idle_now, {"checkpoint": "checkpoint"}) == 1
        with pytest.raises(AdminShutdown):
            idle.execute("SELECT 1")
        other.execute("SELECT 1")


def test_the_doctor_finds_nothing_while_other_roles_are_connected(restricted: Restricted) -> None:
    environ = restricted.up.environ | restricted.up.variables()
    with restricted.session("projector_owner"), closing(Context.from_environ(environ)) as context:
        examination = run_checks(context)
    assert examination.findings == []
    assert {"postgres-sessions-hidden", "worker-missing"} <= set(examination.checked)


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("projector", "DELETE FROM event_log"),
        ("projector", "UPDATE event_log SET number = 1"),
        ("projector", "TRUNCATE event_log"),
        ("projector", "UPDATE projector_schema_version SET version_num = '9999'"),
        ("projector", "CREATE TABLE of_somebody_else (x int)"),
        ("projector_reader", "SELECT FROM event_log"),
        ("projector_reader", "DELETE FROM api_key"),
        ("projector_reader", "UPDATE checkpoint SET lost = 0"),
    ],
)
def test_a_role_has_no_rights_beyond_its_task(restricted: Restricted, role: str, statement: str) -> None:
    with restricted.session(role) as session, pytest.raises(InsufficientPrivilege):
        session.execute(statement.encode())


def test_tables_of_a_later_release_are_accessible_to_both_roles(restricted: Restricted) -> None:
    with restricted.session("projector_owner") as owner:
        owner.execute("CREATE TABLE later (x int)")
    with restricted.session("projector") as running:
        running.execute("INSERT INTO later VALUES (1)")
    with restricted.session("projector_reader") as reader:
        assert reader.execute("SELECT x FROM later").fetchall() == [(1,)]


def test_no_process_holds_more_connections_than_the_table_of_sizes_says(restricted: Restricted) -> None:
    up = restricted.up
    with ThreadPoolExecutor(8) as executor:
        paths = ["/readyz", "/healthz/projector", "/metrics"] * 8
        assert [answer.status_code for answer in executor.map(up.get, paths)] == [200] * len(paths)
    listed = re.findall(
        r"^\| `projector (\w+)` \| \d+ \| (\d+)(?: \+ (reads))? \| (\d+) \| .* \| (\d+) MiB \|$", PAGE, re.MULTILINE
    )
    assert [process for process, *_ in listed] == ["worker", "dispatcher", "api"]
    redis_port = make_url(up.variables()["REDIS_URL"]).port or 0
    for name, database, per_read, *others in listed:
        limits = [int(database) + (len(READS) if per_read else 0), *map(int, others)]
        (pid,) = up.pids(rf" {name}$")
        process = psutil.Process(pid)
        ports = [each.raddr.port for each in process.net_connections("tcp") if each.status == "ESTABLISHED"]
        held = (ports.count(restricted.server.port), ports.count(redis_port), process.memory_info().rss / 2**20)
        assert min(held) > 0, name
        assert all(is_ <= limit for is_, limit in zip(held, limits, strict=True)), (name, held)


def test_each_user_of_redis_may_do_its_work_and_no_more(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The access lists of docs/how-to/deploy.md, on a separate server."""
    (lists,) = blocks("acl run")
    server = RedisServer()
    server.start()
    set_users(server, lists)
    urls = {name: server.url.replace("127", f"{name}:secret@127") for name in ("producer", "projector")}
    environ = {"DATABASE_URL": sqlite_url, "REDIS_URL": urls["projector"], "PROJECTOR_PARTITIONS": str(PARTITIONS)}
    with closing_runtime(Runtime.from_environ(environ)) as runtime:
        runtime.check()
        monkeypatch.setattr("workers.drain.drainer.process_runtime", lambda: runtime)
        producer = Producer.from_url(urls["producer"], runtime.settings)
        position = producer.append_many(MADE)[-1]
        Dispatcher(runtime).sweep()
        working(runtime).work(burst=True, logging_level="WARNING")
        producer.wait_until_projected(position, timeout_s=1)
        assert server.refusals("NOPERM") == 0
        assert read_status(runtime).partitions[TENANT_PARTITION].applied == len(MADE)
    refused = {
        "producer": ["DEL " + KEY, f"XTRIM {KEY} MAXLEN 0", "SET projector:breaker-open 1", "XADD x * a b"],
        "projector": ["CONFIG SET maxmemory-policy allkeys-lru", "FLUSHALL", "GET of_somebody_else"],
    }
    for user, commands in refused.items():
        for command in commands:
            with Redis.from_url(urls[user]) as client, pytest.raises(NoPermissionError):
                client.execute_command(*command.split())
    server.remove()


def set_users(server: RedisServer, lines: str) -> None:
    for line in lines.splitlines():
        server.command("ACL", "SETUSER", *line.split()[1:])


def test_each_process_works_with_the_user_of_its_own(sqlite_url: str, tmp_path: Path) -> None:
    """Real processes: events, a dead letter, a large entry, trimming, verification, health, metrics and a clean end."""
    (lists,) = blocks("acl run")
    server = RedisServer()
    server.start()
    set_users(server, lists)

    def environ(user: str) -> dict[str, str]:
        changed = {"DATABASE_URL": sqlite_url, "REDIS_URL": server.url.replace("127", f"{user}:secret@127")}
        return os.environ | changed | {"PROJECTOR_PARTITIONS": str(PARTITIONS), "PROJECTOR_DATA_DIR": str(tmp_path)}

    soon = json.dumps({"workers.dispatch.trimmer.TRIM_AFTER_S": 1.0, "workers.dispatch.trimmer.TRIM_EVERY_S": 0.5})
    port = free_port()
    processes = {
        "worker": start_module(environ("worker"), "cli", "worker"),
        "dispatcher": start_module(environ("dispatcher"), "tests.support.override_constants", "dispatcher", soon),
        "api": start_module(environ("api") | {"PORT": str(port)}, "cli", "api"),
    }
    try:
        settings = StreamSettings(partitions=PARTITIONS)
        wait_until(lambda: server.command("EXISTS", "events:partitions"), "the number of partitions is announced", 90)
        producer = Producer.from_url(environ("producer")["REDIS_URL"], settings)
        server.command("XADD", KEY, "*", "event", "nonsense")
        server.command("XADD", KEY, "*", "event", "x" * 2_000_000)
        last = producer.append_many([*MADE, *(event() for _ in range(300))])[-1]
        producer.wait_until_projected(last, timeout_s=90)
        wait_until(lambda: server.command("XLEN", KEY) < 200, "the stream is trimmed", 90)
        wait_until(lambda: server.command("HGET", "projector:verify:results", "finished_ms"), "a pass is verified", 90)
        wait_until(lambda: answer(port, "/healthz/projector").startswith('{"status":"degraded"'), "health answers", 90)
        assert 'projector_up{server="redis"} 1.0' in answer(port, "/metrics")
        for user in processes:
            with closing(Context.from_environ(environ(user))) as context:
                codes = {finding.code for finding in run_checks(context).findings}
            assert "redis-permissions-missing" not in codes, user
        refused_before = server.refusals("NOPERM")
    finally:
        for process in processes.values():
            process.terminate()
        ends = [process.wait(60) for process in processes.values()]
    assert ends == [0, 0, 0]
    denied = [entry for entry in map(acl_entry, server.command("ACL", "LOG")) if entry not in EXPECTED_DENIALS]
    assert (denied, refused_before > 0) == ([], True)
    refused = {
        "worker": [f"XADD {KEY} * a b", f"XTRIM {KEY} MAXLEN 0", f"DEL {KEY}", "FLUSHALL", "PUBLISH rq:pubsub:x 1"],
        "dispatcher": [f"XADD {KEY} * a b", f"DEL {KEY}", "CONFIG GET maxmemory", "BLMOVE rq:x rq:y LEFT RIGHT 1"],
        "api": ["SET projector:breaker-open 1", f"XADD {KEY} * a b", "LPOP rq:queue:projector", "KEYS *"],
    }
    for user, commands in refused.items():
        for command in commands:
            with Redis.from_url(environ(user)["REDIS_URL"]) as client, pytest.raises(NoPermissionError):
                client.execute_command(*command.split())
    server.remove()


def test_the_doctor_names_what_the_user_of_a_worker_lacks(sqlite_url: str, tmp_path: Path) -> None:
    (lists,) = blocks("acl run")
    server = RedisServer()
    server.start()
    set_users(server, lists.replace(" &rq:pubsub:*", "").replace(" &* ", " ").replace("+script|load", ""))
    for user, lacks in (
        ("worker", "SCRIPT LOAD, SUBSCRIBE rq:pubsub:probe"),
        ("projector", "SUBSCRIBE rq:pubsub:probe"),
    ):
        environ = {
            "DATABASE_URL": sqlite_url,
            "REDIS_URL": server.url.replace("127", f"{user}:secret@127"),
            "PROJECTOR_PARTITIONS": str(PARTITIONS),
            "PROJECTOR_DATA_DIR": str(tmp_path),
        }
        with closing(Context.from_environ(environ)) as context:
            found = [each for each in run_checks(context).findings if each.code == "redis-permissions-missing"]
        assert found[0].message == f"user {user} may not do what a worker needs: {lacks}"
        assert (found[0].severity, f"ACL SETUSER {user}" in found[0].remedy) == ("error", True)
    assert set(server.command("KEYS", "*")) <= {b"projector:write-probe"}  # of status, which it reads
    server.remove()


def answer(port: int, path: str) -> str:
    return httpx.get(f"http://127.0.0.1:{port}{path}", timeout=30).text


def acl_entry(entry: Any) -> tuple[str, str]:
    fields = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=True))
    named = {_text(name): _text(value) for name, value in fields.items()}
    return named["username"], named["object"]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


@pytest.mark.parametrize("trimmed", [0, 40])
def test_a_database_restored_from_an_older_backup_reads_the_stream_again_and_reports_lost_entries(
    sqlite_url: str, redis_url: str, tmp_path: Path, trimmed: int
) -> None:
    """The numbered steps of docs/how-to/restore.md: losses, epochs, API keys, and producers that append again."""
    environ = {"DATABASE_URL": sqlite_url, "REDIS_URL": redis_url, "PROJECTOR_PARTITIONS": str(PARTITIONS)}
    file, backup = Path(str(make_url(sqlite_url).database)), tmp_path / "backup.db"
    older, newer = [event("project.created.v1"), *(event() for _ in range(29))], [event() for _ in range(60)]
    with closing_runtime(Runtime.from_environ(environ)) as runtime:
        append(runtime, *older)
        drain_all(runtime)
        with runtime.writer.begin() as connection:
            _, key = keys.create(connection, KeyKind.ORG, TENANT, None, frozenset(), NOW_US)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
        positions = [each.position for each in append(runtime, *newer)]
        drain_all(runtime)
        with runtime.writer.begin() as connection:
            assert keys.revoke(connection, key.key_id, NOW_US)
        if trimmed:
            # As the dispatcher trims a minute after the commit, but exactly to this entry.
            went = runtime.stream.redis.xtrim(KEY, minid=str(positions[trimmed]), approximate=False)
            assert went == len(older) + trimmed
    for leftover in file.parent.glob(f"{file.name}-*"):
        leftover.unlink()
    shutil.copyfile(backup, file)
    with closing_runtime(Runtime.from_environ(environ)) as runtime:
        drain_all(runtime)
        found = read_status(runtime).partitions[TENANT_PARTITION]
        assert (found.in_flight, found.lost, found.epoch) == (0, trimmed, int(trimmed > 0))
        with runtime.reader.connect() as connection:
            assert [each.revoked_us for each in keys.list_all(connection)] == [None]
        append(runtime, *newer)
        drain_all(runtime)
        assert read_status(runtime).partitions[TENANT_PARTITION].duplicates == len(newer) - trimmed
        assert_counted_once(runtime, older + newer)
        assert_counters_add_up(runtime)
