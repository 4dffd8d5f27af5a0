"""PostgreSQL faults during a drain: no dead letter, nothing lost or counted twice, and the lag returns to zero.

Every fault is a real one of PostgreSQL unless a docstring says otherwise. The drain's log proves that it happened.
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

from tests.support.failpoints import fail_at
from tests.support.limited_disk import fill, limited_disk
from tests.support.servers import wait_until
from tests.support.workload import Workload
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
def other_session(database_url: str) -> Iterator[Session]:
    with connect(database_url) as session:
        yield session


@pytest.fixture
def onlooker(database_url: str) -> Iterator[Session]:
    with connect(database_url) as session:
        yield session


def hurry(engine: Engine, **settings: str) -> None:
    """Set shorter timeouts in every session of `engine`."""

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


def kinds(work: Workload) -> set[str]:
    """Return the classes of the errors that drains failed with."""
    return {each.split(":")[0] for each in work.failures()}


@pytest.mark.first
def test_a_deadlock(
    runtime: Runtime, other_session: Session, onlooker: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40P01: another session locks a read model and then the checkpoints; the drain locks in the opposite order."""
    other_session.execute("SET deadlock_timeout = '1h'")  # so that the drain is the victim
    work = Workload.load(runtime)

    def lock_in_another_order() -> None:
        other_session.execute("SELECT partition FROM checkpoint FOR UPDATE")
        other_session.execute("ROLLBACK")

    def fault() -> None:
        other_session.execute("BEGIN")
        other_session.execute("LOCK TABLE activity IN EXCLUSIVE MODE")
        threading.Thread(target=lock_in_another_order).start()
        wait_until(
            lambda: backends(onlooker, f"{WAITS_FOR_A_LOCK} AND application_name = '{STRANGER}'"), "the statement waits"
        )

    fail_at(monkeypatch, "after claim", fault)
    work.run_until_drained()
    assert kinds(work) == {"DeadlockDetected"}
    work.assert_complete()


@pytest.mark.first
def test_a_serialization_failure(
    runtime: Runtime, other_session: Session, onlooker: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """40001: on a database with stricter default isolation, another session changes the row that a drain claims."""
    hurry(runtime.writer, default_transaction_isolation="repeatable read")
    work = Workload.load(runtime)

    def commit_under_the_claim() -> None:
        wait_until(lambda: backends(onlooker, WAITS_FOR_A_LOCK), "the claim waits")
        other_session.execute("COMMIT")

    def fault() -> None:
        other_session.execute("BEGIN")
        other_session.execute("UPDATE checkpoint SET read = read")
        threading.Thread(target=commit_under_the_claim).start()

    fail_at(monkeypatch, "after read", fault)
    work.run_until_drained()
    assert kinds(work) == {"SerializationFailure"}
    work.assert_complete()


@pytest.mark.parametrize(
    ("point", "lock", "setting", "error"),
    [
        ("after claim", "LOCK TABLE activity IN EXCLUSIVE MODE", "statement_timeout", "QueryCanceled"),
        ("after read", "SELECT partition FROM checkpoint FOR UPDATE", "lock_timeout", "LockNotAvailable"),
    ],
)
def test_a_lock_that_another_session_keeps(
    runtime: Runtime,
    other_session: Session,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
    lock: str,
    setting: str,
    error: str,
) -> None:
    """57014 and 55P03: a statement times out, or the checkpoint cannot be locked."""
    hurry(runtime.writer, **{setting: "300ms"})
    work = Workload.load(runtime)

    def fault() -> None:
        other_session.execute("BEGIN")
        other_session.execute(lock.encode())
        work.end_fault_after_first_failure(other_session.rollback)

    fail_at(monkeypatch, point, fault)
    work.run_until_drained()
    assert kinds(work) == {error}
    work.assert_complete()


@pytest.mark.parametrize("point", ["after claim", "inside accept", "after fold", "before commit"])
def test_a_session_that_an_administrator_ends(
    runtime: Runtime, onlooker: Session, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """57P01, in the middle of a transaction."""
    work = Workload.load(runtime)

    def fault() -> None:
        (pid,) = draining(onlooker)
        assert onlooker.execute("SELECT pg_terminate_backend(%s, 10000)", [pid]).fetchone()

    fail_at(monkeypatch, point, fault)
    work.run_until_drained()
    (kind,) = kinds(work)
    assert kind in ("AdminShutdown", "OperationalError")  # after an executemany psycopg does not report the kind
    work.assert_complete()


def test_a_drain_that_is_paused_in_its_transaction(
    runtime: Runtime, onlooker: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """25P03: the server ends the session of a paused drain, which releases the claim."""
    hurry(runtime.writer, idle_in_transaction_session_timeout="2s")
    work = Workload.load(runtime)

    def fault() -> None:
        assert draining(onlooker)
        wait_until(lambda: not draining(onlooker), "the server ends the session")

    fail_at(monkeypatch, "inside accept", fault)
    work.run_until_drained()
    assert kinds(work) == {"IdleInTransactionSessionTimeout"}
    work.assert_complete()


@pytest.mark.parametrize("sqlstate", ["53100", "58030", "XX000"])
def test_an_error_raised_by_a_trigger(
    runtime: Runtime, other_session: Session, monkeypatch: pytest.MonkeyPatch, sqlstate: str
) -> None:
    """Disk full, I/O error, internal error: raised by a trigger, because they are hard to provoke everywhere."""
    other_session.execute(
        f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'as if' USING ERRCODE = '{sqlstate}'; END $$
    """.encode()
    )
    work = Workload.load(runtime)

    def fault() -> None:
        other_session.execute("CREATE TRIGGER fail BEFORE INSERT ON event_log EXECUTE FUNCTION fail()")
        work.end_fault_after_first_failure(lambda: other_session.execute("DROP TRIGGER fail ON event_log"))

    fail_at(monkeypatch, "after read", fault)
    work.run_until_drained()
    assert {psycopg.errors.lookup(sqlstate).__name__} == kinds(work)
    work.assert_complete()


def test_a_full_disk(runtime: Runtime, other_session: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """53100, on a full file system."""
    with limited_disk(megabytes=8) as disk:
        name = f"small_{os.getpid()}"
        other_session.execute(f"CREATE TABLESPACE {name} LOCATION '{disk}'".encode())
        other_session.execute(f"ALTER TABLE event_log SET TABLESPACE {name}".encode())
        work = Workload.load(runtime)

        def fault() -> None:
            work.end_fault_after_first_failure(fill(disk))

        fail_at(monkeypatch, "after claim", fault, number=2)
        work.run_until_drained()
        assert kinds(work) == {"DiskFull"}
        work.assert_complete()
        other_session.execute("ALTER TABLE event_log SET TABLESPACE pg_default")
        other_session.execute(f"DROP TABLESPACE {name}".encode())


def test_too_many_connections(
    database_url: str,
    redis_url: str,
    onlooker: Session,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """53300, for drains and the dispatcher: the role's sessions were ended, and others took their slots."""
    onlooker.execute("CREATE ROLE crowded LOGIN")
    onlooker.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO crowded")
    runtime = Runtime.from_environ(
        {
            "DATABASE_URL": database_url.replace("postgres@", "crowded@").replace("+psycopg", ""),
            "REDIS_URL": redis_url,
            "PROJECTOR_PARTITIONS": "4",
        }
    )
    work = Workload.load(runtime)
    crowd: list[Session] = []

    def fault() -> None:
        crowd.extend(connect(database_url, user="crowded") for _ in range(4))
        onlooker.execute("ALTER ROLE crowded CONNECTION LIMIT 4")
        for pid in backends(onlooker, f"usename = 'crowded' AND application_name <> '{STRANGER}'"):
            onlooker.execute("SELECT pg_terminate_backend(%s)", [pid])
        work.end_fault_after_first_failure(leave)

    def leave() -> None:
        wait_until(lambda: refused(work.failures()), "a drain is refused")
        wait_until(lambda: refused(work.dispatcher_outages()), "the dispatcher is refused")
        for each in crowd:
            each.close()

    fail_at(monkeypatch, "after commit", fault)
    try:
        work.run_until_drained()
        assert refused(work.failures())
        assert refused(work.dispatcher_outages())
        work.assert_complete()
    finally:
        close(runtime)
        onlooker.execute("DROP OWNED BY crowded")
        onlooker.execute("DROP ROLE crowded")


def refused(errors: list[str]) -> bool:
    """Whether an error is a refusal; errors of the ended session may come before it."""
    return any("too many connections" in each for each in errors)


def close(runtime: Runtime) -> None:
    for engine in (runtime.writer, runtime.reader):
        engine.dispose()
    runtime.stream.redis.close()
    runtime.queue.connection.close()
