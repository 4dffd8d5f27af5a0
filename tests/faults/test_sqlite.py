"""SQLite is locked, killed, full or missing during a drain: no dead letter, nothing lost or counted twice."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import event as sa_event
from sqlalchemy.exc import DatabaseError

from projections.database.engines import writer_engine
from tests.support.events import mixed
from tests.support.failpoints import fail_at
from tests.support.harness import append, checkpoints, closing_runtime, drain_all
from tests.support.limited_disk import fill, limited_disk
from tests.support.servers import wait_until
from tests.support.workload import Workload
from workers.runtime import Runtime

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


def file_of(runtime: Runtime) -> Path:
    return Path(str(runtime.writer.url.database))


def prepare(engine: Engine, pragma: str) -> None:
    """Run a pragma on every connection that `engine` opens from now on."""
    engine.dispose()
    sa_event.listen(engine, "connect", lambda connection, _record: connection.execute(f"PRAGMA {pragma}"))


def count_of(file: Path, table: str) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def only_error(work: Workload) -> str:
    (error,) = set(work.failures())
    return error


def test_another_process_holds_the_write_lock(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock is held longer than any timeout."""
    prepare(runtime.writer, "busy_timeout = 200")
    work = Workload.load(runtime)

    def fault() -> None:
        command = [sys.executable, "-c", LOCKER, str(file_of(runtime))]
        locker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert locker.stdout is not None
        assert locker.stdout.readline() == b"locked\n"
        work.end_fault_after_first_failure(locker.communicate)

    fail_at(monkeypatch, "after read", fault)
    work.run_until_drained()
    assert only_error(work) == "OperationalError: database is locked"
    work.assert_complete()


@pytest.mark.parametrize("point", ["inside accept", "before commit", "after commit"])
@pytest.mark.parametrize("nth_call", [1, 2])
def test_a_writer_killed_before_its_log_reaches_the_database_file(
    runtime: Runtime, redis_url: str, tmp_path: Path, point: str, nth_call: int
) -> None:
    """In the middle of a transaction, or between its commit and the checkpoint of the write-ahead log."""
    work = Workload.load(runtime)
    file = file_of(runtime)
    environ = {"REDIS_URL": redis_url, "DATABASE_URL": f"sqlite:///{file}", "PROJECTOR_PARTITIONS": "4"}
    partition = next(p for p, end in enumerate(runtime.stream.ends()) if end.length > 40)
    number = int(signal.SIGKILL)
    command = [
        sys.executable,
        "-m",
        "tests.support.crashing_drain",
        point,
        str(number),
        str(nth_call),
        str(partition),
    ]
    assert subprocess.run(command, env=os.environ | environ, check=False).returncode == -signal.SIGKILL
    # Without its write-ahead log the file contains none of the commits; with it, all of them.
    alone = shutil.copyfile(file, tmp_path / "alone.db")
    committed = nth_call if point == "after commit" else nth_call - 1
    assert (count_of(alone, "event_log"), count_of(file, "event_log") > 0) == (0, committed > 0)
    runtime.queue.connection.delete(f"projector:drain-lease:{{{partition}}}")
    work.run_until_drained()
    work.assert_complete()


def test_a_database_that_cannot_grow(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLITE_FULL, by SQLite's own limit."""
    pages = {"max": 2**30}

    def limit(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages['max']}")

    sa_event.listen(runtime.writer, "connect", limit)
    work = Workload.load(runtime)

    def set_limit(most: int) -> None:
        pages["max"] = most
        runtime.writer.dispose()

    def fault() -> None:
        set_limit(1)  # that is, no more than the current pages
        work.end_fault_after_first_failure(lambda: set_limit(2**30))

    fail_at(monkeypatch, "after read", fault)
    work.run_until_drained()
    assert only_error(work) == "OperationalError: database or disk is full"
    work.assert_complete()


def runtime_on(file: Path, redis_url: str) -> Runtime:
    return Runtime.from_environ(
        {"REDIS_URL": redis_url, "DATABASE_URL": f"sqlite:///{file}", "PROJECTOR_PARTITIONS": "4"}
    )


@pytest.mark.parametrize("point", ["after read", "after claim", "before commit"])
def test_a_full_disk(
    database_url: str, redis_url: str, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    with limited_disk(megabytes=8) as disk:
        file = Path(shutil.copyfile(sqlite_template, disk / "projector.db"))
        with closing_runtime(runtime_on(file, redis_url)) as runtime:
            work = Workload.load(runtime)
            fail_at(monkeypatch, point, lambda: work.end_fault_after_first_failure(fill(disk)))
            work.run_until_drained()
            assert only_error(work).startswith("OperationalError: ")
            assert "full" in only_error(work) or "I/O" in only_error(work)
            work.assert_complete()


def test_a_folder_that_is_missing_for_a_while(
    database_url: str, redis_url: str, sqlite_template: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Like a disk that was not mounted in time."""
    folder, away = tmp_path / "data", tmp_path / "away"
    folder.mkdir()
    file = Path(shutil.copyfile(sqlite_template, folder / "projector.db"))
    with closing_runtime(runtime_on(file, redis_url)) as runtime:
        work = Workload.load(runtime)

        def fault() -> None:
            for engine in (runtime.writer, runtime.reader):
                engine.dispose()
            folder.rename(away)
            work.end_fault_after_first_failure(bring_back)

        def bring_back() -> None:
            wait_until(work.dispatcher_outages, "the dispatcher has failed too")
            away.rename(folder)

        fail_at(monkeypatch, "after read", fault)
        work.run_until_drained()
        assert only_error(work) == "OperationalError: unable to open database file"
        work.assert_complete()


def test_a_connection_that_cannot_be_set_up_is_closed(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "no.db"
    file.write_bytes(b"not a database at all" * 100)
    opened: list[Any] = []
    engine = writer_engine(f"sqlite:///{file}")
    sa_event.listen(engine, "connect", lambda connection, _record: opened.append(connection), insert=True)
    with pytest.raises(DatabaseError, match="not a database"):
        engine.connect()
    (connection,) = opened
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


@pytest.mark.first
def test_running_processes_follow_a_file_that_was_put_in_the_place_of_the_old_one(runtime: Runtime) -> None:
    append(runtime, *mixed(50))
    drain_all(runtime)
    file = file_of(runtime)
    backup = file.with_suffix(".backup")
    with closing(sqlite3.connect(file)) as source, closing(sqlite3.connect(backup)) as to:
        source.backup(to)
    append(runtime, *mixed(60, seed=2))
    drain_all(runtime)
    backup.replace(file)
    for name in ("-wal", "-shm"):
        Path(f"{file}{name}").unlink(missing_ok=True)
    assert (
        sum(at.applied for at in checkpoints(runtime)) == 50
    )  # of the older file, which the engine has not opened yet
    drain_all(runtime)
    assert sum(at.applied for at in checkpoints(runtime)) == count_of(file, "event_log") == 110
