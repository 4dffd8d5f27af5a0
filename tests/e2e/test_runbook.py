"""The run book as it stands: its statements make the roles, and its commands run with no more rights than those."""

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

import psutil
import psycopg
import pytest
from psycopg.errors import AdminShutdown, InsufficientPrivilege
from sqlalchemy import make_url, text

from api_stub.auth import keys
from api_stub.auth.keys import Kind
from cli.commands.migrate import migrate_database
from event_stream import Producer
from event_stream.event_types import partition_of
from event_stream.stream import stream_key
from projections.database import idle_lock_holders
from projections.database.engines import reader_engine
from tests.conftest import sqlalchemy_url
from tests.support.deployment import PROJECTOR, Deployment
from tests.support.driving import append, count_equal_answers, drain_all, held_open
from tests.support.events import NOW_US, TENANT, event
from tests.support.law import assert_counted_once, assert_law
from tests.support.oracle import Oracle
from tests.support.servers import PostgresServer, wait_until
from workers.doctor.context import Context
from workers.doctor.runner import examine
from workers.reporting.overview import read_overview
from workers.reporting.status import read_status
from workers.runtime import Runtime

PAGE = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
PARTITIONS = 4
HOME = partition_of(TENANT, PARTITIONS)
KEY = stream_key(HOME)
MADE = [event("project.created.v1"), event("log_source.added.v1"), *(event() for _ in range(20))]
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
    server = PostgresServer(durable=True)  # or the doctor would find something
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
    wait_until(lambda: made.up.get("/healthz/projector").status_code == 200, "all loops give signs of life")
    yield made
    made.up.remove()
    server.remove()


def test_what_the_run_book_says_to_type_works(restricted: Restricted) -> None:
    up = restricted.up
    folder = up.directory.parent
    (folder / "events.jsonl").write_text("".join(json.dumps(each) + "\n" for each in MADE))
    environ = up.environ | {"PATH": f"{Path(PROJECTOR).parent}{os.pathsep}{os.environ['PATH']}"}

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        command = ["sh", "-eu", "-c", script]
        return subprocess.run(
            command, cwd=folder, env=environ, capture_output=True, text=True, timeout=120, check=False
        )

    scripts = blocks("sh run")
    assert len(scripts) >= 6
    with ThreadPoolExecutor(2) as executor:
        for script, done in zip(scripts, executor.map(run, scripts), strict=True):
            assert done.returncode == 0, script + done.stdout + done.stderr


def test_drains_reads_and_status_need_no_more_rights(restricted: Restricted) -> None:
    """A worker's drain as `projector`; reads over HTTP; reads and status as `projector_reader`."""
    up = restricted.up
    with opened(restricted) as runtime:
        producer = Producer(runtime.stream, runtime.settings)
        last = producer.append_many(MADE)[-1]
        wait_until(lambda: producer.is_projected(last), "all of one tenant is projected", 60)
        assert count_equal_answers(runtime, Oracle(MADE)) == 2
        found = read_status(runtime)
        assert found.problems() == []
        busiest = read_overview(runtime).tenants.by_traffic
        assert busiest is None  # this role does not see the log, and status says so instead of failing
        assert sum(each.applied for each in found.partitions) == len(MADE)
        with runtime.writer.begin() as connection:
            key, _ = keys.create(connection, Kind.ORG, TENANT, None, frozenset({"config:read"}), NOW_US)
    assert up.data("/v1/config/projects/checkout-api/stats", key)["logSourceCount"] == 1


@contextmanager
def opened(restricted: Restricted) -> Iterator[Runtime]:
    """Open what a process of the role `projector` does, but read as `projector_reader`."""
    reader = reader_engine(sqlalchemy_url(restricted.url("projector_reader")))
    with held_open(Runtime.from_environ(restricted.up.environ | restricted.up.variables())) as runtime:
        try:
            yield replace(runtime, reader=reader)
        finally:
            reader.dispose()


def test_whoever_waits_for_a_claim_may_end_a_session_of_the_same_role_only(restricted: Restricted) -> None:
    end_sleepers_now = text(idle_lock_holders._END_SLEEPERS.text.replace("10 s", "0 s"))
    with restricted.session("projector") as sleeper, restricted.session("projector_owner") as stranger:
        for partition, session in enumerate((sleeper, stranger)):
            session.execute("BEGIN")
            session.execute("SELECT FROM checkpoint WHERE partition = %s FOR UPDATE", (partition,))
        with opened(restricted) as runtime, runtime.writer.begin() as connection:
            assert connection.scalar(end_sleepers_now) == 1
        with pytest.raises(AdminShutdown):
            sleeper.execute("SELECT 1")
        stranger.execute("SELECT 1")


def test_the_doctor_finds_nothing_though_other_roles_are_connected(restricted: Restricted) -> None:
    environ = restricted.up.environ | restricted.up.variables()
    with restricted.session("projector_owner"), closing(Context.from_environ(environ)) as patient:
        examination = examine(patient)
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
def test_a_role_may_not_do_what_is_not_its_business(restricted: Restricted, role: str, statement: str) -> None:
    with restricted.session(role) as session, pytest.raises(InsufficientPrivilege):
        session.execute(statement.encode())


def test_tables_that_a_later_release_adds_are_open_to_both_roles(restricted: Restricted) -> None:
    with restricted.session("projector_owner") as owner:
        owner.execute("CREATE TABLE later (x int)")
    with restricted.session("projector") as running:
        running.execute("INSERT INTO later VALUES (1)")
    with restricted.session("projector_reader") as reader:
        assert reader.execute("SELECT x FROM later").fetchall() == [(1,)]


def test_no_process_holds_more_than_the_table_of_sizes_says(restricted: Restricted) -> None:
    up = restricted.up
    with ThreadPoolExecutor(8) as executor:
        paths = ["/readyz", "/healthz/projector", "/metrics"] * 8
        assert [answer.status_code for answer in executor.map(up.get, paths)] == [200] * len(paths)
    listed = re.findall(r"^\| `projector (\w+)` \| \d+ \| (\d+) \| (\d+) \| .* \| (\d+) MiB \|$", PAGE, re.MULTILINE)
    assert [process for process, *_ in listed] == ["worker", "dispatcher", "api"]
    redis_port = make_url(up.variables()["REDIS_URL"]).port or 0
    for name, *limits in listed:
        (pid,) = up.pids(rf" {name}$")
        process = psutil.Process(pid)
        ports = [each.raddr.port for each in process.net_connections("tcp") if each.status == "ESTABLISHED"]
        held = (ports.count(restricted.server.port), ports.count(redis_port), process.memory_info().rss / 2**20)
        assert min(held) > 0, name
        assert all(is_ <= limit for is_, limit in zip(held, map(int, limits), strict=True)), (name, held)


@pytest.mark.parametrize("trimmed", [0, 40])
def test_a_database_restored_older_reads_the_stream_again_and_tells_what_is_no_longer_there(
    sqlite_url: str, redis_url: str, tmp_path: Path, trimmed: int
) -> None:
    """The numbered steps of the run book: what is lost, its epoch, the keys, and producers that append again."""
    environ = {"DATABASE_URL": sqlite_url, "REDIS_URL": redis_url, "PROJECTOR_PARTITIONS": str(PARTITIONS)}
    file, backup = Path(str(make_url(sqlite_url).database)), tmp_path / "backup.db"
    older, newer = [event("project.created.v1"), *(event() for _ in range(29))], [event() for _ in range(60)]
    with held_open(Runtime.from_environ(environ)) as runtime:
        append(runtime, *older)
        drain_all(runtime)
        with runtime.writer.begin() as connection:
            _, key = keys.create(connection, Kind.ORG, TENANT, None, frozenset(), NOW_US)
        with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as copy:
            source.backup(copy)
        positions = [each.position for each in append(runtime, *newer)]
        drain_all(runtime)
        with runtime.writer.begin() as connection:
            assert keys.revoke(connection, key.key_id, NOW_US)
        if trimmed:
            # As the dispatcher does once it is committed for a minute, but to the very entry.
            went = runtime.stream.redis.xtrim(KEY, minid=str(positions[trimmed]), approximate=False)
            assert went == len(older) + trimmed
    for leftover in file.parent.glob(f"{file.name}-*"):
        leftover.unlink()
    shutil.copyfile(backup, file)
    with held_open(Runtime.from_environ(environ)) as runtime:
        drain_all(runtime)
        found = read_status(runtime).partitions[HOME]
        assert (found.in_flight, found.lost, found.epoch) == (0, trimmed, int(trimmed > 0))
        with runtime.reader.connect() as connection:
            assert [each.revoked_us for each in keys.list_all(connection)] == [None]
        append(runtime, *newer)
        drain_all(runtime)
        assert read_status(runtime).partitions[HOME].duplicates == len(newer) - trimmed
        assert_counted_once(runtime, older + newer)
        assert_law(runtime)
