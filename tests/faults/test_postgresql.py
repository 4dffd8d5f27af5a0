"""PostgreSQL fails in each of its ways under a drain: never a letter, nothing lost or counted twice, lag back to zero.

Every fault is PostgreSQL's own unless a docstring says otherwise. That it happened is read from what the drain logs.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import scalar_row
from sqlalchemy import Engine
from sqlalchemy import event as sa_event

from tests.support.outages import Work
from tests.support.points import strike
from tests.support.servers import wait_until
from tests.support.small_disk import ballast, small_disk
from workers.runtime import Runtime

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
# Whoever else may be connected: a person at a prompt, a backup, another application.
STRANGER = "a stranger"
WAITS_FOR_A_LOCK = "wait_event_type = 'Lock'"
Session = psycopg.Connection[Any]


def connect(database_url: str, **options: Any) -> Session:
    url = database_url.replace("+psycopg", "")
    return psycopg.connect(url, application_name=STRANGER, autocommit=True, row_factory=scalar_row, **options)


@pytest.fixture
def stranger(database_url: str) -> Iterator[Session]:
    with connect(database_url) as session:
        yield session


@pytest.fixture
def onlooker(database_url: str) -> Iterator[Session]:
    with connect(database_url) as session:
        yield session


def hurry(engine: Engine, **settings: str) -> None:
    """Let every session of `engine` begin with other settings: the same fault, sooner."""

    def prepare(connection: Any, _record: object) -> None:
        for name, value in settings.items():
            connection.execute(f"SET {name} = '{value}'")
        connection.commit()

    engine.dispose()
    sa_event.listen(engine, "connect", prepare)


def backends(onlooker: Session, condition: str) -> list[int]:
    """Return the other backends of this database for which a condition on pg_stat_activity holds."""
    here = "datname = current_database() AND pid <> pg_backend_pid()"
    return onlooker.execute(f"SELECT pid FROM pg_stat_activity WHERE {here} AND {condition}".encode()).fetchall()


def draining(onlooker: Session) -> list[int]:
    """Return the backends of drains that are in the middle of a transaction, between two statements."""
    return backends(onlooker, f"application_name <> '{STRANGER}' AND state = 'idle in transaction'")


def kinds(work: Work) -> set[str]:
    """Return the classes of the errors that drains failed by."""
    return {each.split(":")[0] for each in work.failures()}


@pytest.mark.first
def test_a_deadlock(runtime: Runtime, stranger: Session, onlooker: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """40P01: somebody locks a read model and then the checkpoints, the drain in the other order."""
    stranger.execute("SET deadlock_timeout = '1h'")  # so that the drain is the victim
    work = Work.load(runtime)

    def lock_in_another_order() -> None:
        stranger.execute("SELECT partition FROM checkpoint FOR UPDATE")
        stranger.execute("ROLLBACK")

    def fault() -> None:
        stranger.execute("BEGIN")
        stranger.execute("LOCK TABLE activity IN EXCLUSIVE MODE")
        threading.Thread(target=lock_in_another_order).start()
        wait_until(lambda: backends(onlooker, f"{WAITS_FOR_A_LOCK} AND application_name = '{STRANGER}'"), "it waits")

    strike(monkeypatch, "after claim", fault)
    work.until_dry()
    assert kinds(work) == {"DeadlockDetected"}
    work.assert_whole()


@pytest.mark.first
def test_a_serialization_failure(
    runtime: Runtime, stranger: Session, onlooker: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40001: on a database whose transactions are stricter by default, somebody changes the row that a drain claims."""
    hurry(runtime.writer, default_transaction_isolation="repeatable read")
    work = Work.load(runtime)

    def commit_under_the_claim() -> None:
        wait_until(lambda: backends(onlooker, WAITS_FOR_A_LOCK), "the claim waits")
        stranger.execute("COMMIT")

    def fault() -> None:
        stranger.execute("BEGIN")
        stranger.execute("UPDATE checkpoint SET read = read")
        threading.Thread(target=commit_under_the_claim).start()

    strike(monkeypatch, "after read", fault)
    work.until_dry()
    assert kinds(work) == {"SerializationFailure"}
    work.assert_whole()


@pytest.mark.parametrize(
    ("point", "lock", "setting", "error"),
    [
        ("after claim", "LOCK TABLE activity IN EXCLUSIVE MODE", "statement_timeout", "QueryCanceled"),
        ("after read", "SELECT partition FROM checkpoint FOR UPDATE", "lock_timeout", "LockNotAvailable"),
    ],
)
def test_a_lock_that_somebody_keeps(
    runtime: Runtime,
    stranger: Session,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    lock: str,
    setting: str,
    error: str,
) -> None:
    """57014 and 55P03: a statement takes too long, or the checkpoint cannot be had."""
    hurry(runtime.writer, **{setting: "300ms"})
    work = Work.load(runtime)

    def fault() -> None:
        stranger.execute("BEGIN")
        stranger.execute(lock.encode())
        work.end_when_noticed(stranger.rollback)

    strike(monkeypatch, point, fault)
    work.until_dry()
    assert kinds(work) == {error}
    work.assert_whole()


@pytest.mark.parametrize("point", ["after claim", "inside accept", "after fold", "before commit"])
def test_a_session_that_an_administrator_ends(
    runtime: Runtime, onlooker: Session, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """57P01, in the middle of a transaction."""
    work = Work.load(runtime)

    def fault() -> None:
        (pid,) = draining(onlooker)
        assert onlooker.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone()

    strike(monkeypatch, point, fault)
    work.until_dry()
    (kind,) = kinds(work)
    assert kind in ("AdminShutdown", "OperationalError")  # after an executemany psycopg does not see which
    work.assert_whole()


def test_a_drain_that_sleeps_in_its_transaction(
    runtime: Runtime, onlooker: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25P03: the server ends the session of a drain that was paused, and the claim is free again."""
    hurry(runtime.writer, idle_in_transaction_session_timeout="2s")
    work = Work.load(runtime)

    def fault() -> None:
        assert draining(onlooker)
        wait_until(lambda: not draining(onlooker), "the server has enough of it")

    strike(monkeypatch, "inside accept", fault)
    work.until_dry()
    assert kinds(work) == {"IdleInTransactionSessionTimeout"}
    work.assert_whole()


@pytest.mark.parametrize("sqlstate", ["53100", "58030", "XX000"])
def test_an_error_that_a_trigger_raises(
    runtime: Runtime, stranger: Session, monkeypatch: pytest.MonkeyPatch, sqlstate: str
) -> None:
    """Disk full, I/O error, internal error: raised by hand, as they are hard to have for real everywhere."""
    stranger.execute(
        f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '{sqlstate}'; END $$
    """.encode()
    )
    work = Work.load(runtime)

    def fault() -> None:
        stranger.execute("CREATE TRIGGER fail BEFORE INSERT ON event_log EXECUTE FUNCTION fail()")
        work.end_when_noticed(lambda: stranger.execute("DROP TRIGGER fail ON event_log"))

    strike(monkeypatch, "after read", fault)
    work.until_dry()
    assert {psycopg.errors.lookup(sqlstate).__name__} == kinds(work)
    work.assert_whole()


def test_a_disk_that_is_full(
    runtime: Runtime, stranger: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """53100, on a file system that is really full."""
    with small_disk(megabytes=8) as disk:
        name = f"small_{os.getpid()}"
        stranger.execute(f"CREATE TABLESPACE {name} LOCATION '{disk}'".encode())
        stranger.execute(f"ALTER TABLE event_log SET TABLESPACE {name}".encode())
        work = Work.load(runtime)

        def fault() -> None:
            work.end_when_noticed(ballast(disk))

        strike(monkeypatch, "after claim", fault, number=2)
        work.until_dry()
        assert kinds(work) == {"DiskFull"}
        work.assert_whole()
        stranger.execute("ALTER TABLE event_log SET TABLESPACE pg_default")
        stranger.execute(f"DROP TABLESPACE {name}".encode())


def test_too_many_connections(
    database_url: str,
    redis_url: str,
    onlooker: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """53300, for drain and dispatcher alike: the role's sessions were ended, and others have their places."""
    onlooker.execute("CREATE ROLE crowded LOGIN")
    onlooker.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO crowded")
    runtime = Runtime.from_environ(
        {
            "DATABASE_URL": database_url.replace("postgres@", "crowded@").replace("+psycopg", ""),
            "REDIS_URL": redis_url,
            "PROJECTOR_PARTITIONS": "4",
        }
    )
    work = Work.load(runtime)
    crowd: list[Session] = []

    def fault() -> None:
        crowd.extend(connect(database_url, user="crowded") for _ in range(4))
        onlooker.execute("ALTER ROLE crowded CONNECTION LIMIT 4")
        for pid in backends(onlooker, f"usename = 'crowded' AND application_name <> '{STRANGER}'"):
            onlooker.execute("SELECT pg_terminate_backend(%s)", [pid])
        work.end_when_noticed(leave)

    def leave() -> None:
        wait_until(lambda: refused(work.failures()), "a drain is not let in")
        wait_until(lambda: refused(work.dispatcher_outages()), "the dispatcher is not let in")
        for each in crowd:
            each.close()

    strike(monkeypatch, "after commit", fault)
    try:
        work.until_dry()
        assert refused(work.failures())
        assert refused(work.dispatcher_outages())
        work.assert_whole()
    finally:
        close(runtime)
        onlooker.execute("DROP OWNED BY crowded")
        onlooker.execute("DROP ROLE crowded")


def refused(errors: list[str]) -> bool:
    """Return whether one is a refusal; before it, there may be one of the session that was ended."""
    return any("too many connections" in each for each in errors)


def close(runtime: Runtime) -> None:
    for engine in (runtime.writer, runtime.reader):
        engine.dispose()
    runtime.stream.redis.close()
    runtime.queue.connection.close()
