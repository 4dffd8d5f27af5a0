"""Migrations on a busy PostgreSQL: what they wait for, what waits for them, and what they say about it."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, inspect
from structlog.testing import capture_logs

from migrations import lock_wait, upgrade
from migrations.lock_wait import MigrationBlockedError
from projections.database.engines import migration_engine
from projections.database.table_names import lock_number
from tests.integration.test_migrations import with_later_revision
from tests.support.commands import run_command
from tests.support.processes import environ_of
from tests.support.servers import wait_until

ADD_COLUMN = """op.add_column("project", sa.Column("later", sa.Text))"""
ADD_COLUMN_TO_TENANT = ADD_COLUMN.replace("project", "tenant")
Session = psycopg.Connection[Any]


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    made = migration_engine(postgres_url)
    yield made
    made.dispose()


@pytest.fixture
def report(postgres_url: str) -> Iterator[Session]:
    """The session of a report."""
    with psycopg.connect(postgres_url.replace("+psycopg", ""), application_name="a report") as session:
        yield session


class Reads:
    """Reads `project` again and again, in a session of its own, as the API does."""

    def __init__(self, database_url: str) -> None:
        self.seconds: list[float] = []
        self.errors: list[Exception] = []
        self._url = database_url.replace("+psycopg", "")
        self._stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self._run)
        thread.start()
        yield
        self._stopped.set()
        thread.join()

    def _run(self) -> None:
        with psycopg.connect(self._url, autocommit=True, options="-c statement_timeout=5s") as session:
            while not self._stopped.wait(0.01):
                started_s = time.monotonic()
                try:
                    session.execute("SELECT slug FROM project WHERE tenant_id = 'ten_a' AND project_id = 'x'")
                except psycopg.Error as error:
                    self.errors.append(error)
                self.seconds.append(time.monotonic() - started_s)


def test_reads_go_on_while_a_migration_waits_for_a_transaction_that_was_left_open(
    engine: Engine, postgres_url: str, report: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_wait, "_PAUSE_S", 0.2)
    report.execute("SELECT 1 FROM project")
    reads = Reads(postgres_url)
    with reads.running(), capture_logs() as logs, pytest.raises(MigrationBlockedError) as raised:
        upgrade(with_later_revision(engine, tmp_path / "later", ADD_COLUMN), lock_wait_s=2)
    assert len([entry for entry in logs if entry["event"] == "migrate.waiting"]) >= 2
    assert reads.errors == []
    assert sorted(reads.seconds)[len(reads.seconds) // 2] < 0.5
    holder = rf"process {report.info.backend_pid} \(a report, user postgres\), whose transaction is \d+ s old"
    assert raised.match(f"no lock within 2 s, which is held by {holder}; .*pg_terminate_backend")
    assert "later" not in columns(engine)


def test_a_migration_continues_by_itself_when_the_transaction_ends(
    engine: Engine, report: Session, tmp_path: Path
) -> None:
    report.execute("SELECT 1 FROM project")
    configuration = with_later_revision(engine, tmp_path / "later", ADD_COLUMN)
    with capture_logs() as logs:
        migrating = threading.Thread(target=upgrade, args=[configuration])
        migrating.start()
        wait_until(lambda: logs, "the migration waits")
        assert "later" not in columns(engine)
        report.rollback()
        migrating.join()
    assert any("a report" in holder for entry in logs for holder in entry["blockers"])
    assert "later" in columns(engine)


def test_an_index_is_created_and_rows_are_changed_while_a_transaction_is_open(
    engine: Engine, postgres_url: str, report: Session, tmp_path: Path
) -> None:
    """As CONTRIBUTING shows it: outside of the transaction that other revisions need."""
    report.execute("SELECT 1 FROM project")
    body = """
        with op.get_context().autocommit_block():
            op.drop_index("later", "project", if_exists=True, postgresql_concurrently=True)
            op.create_index("later", "project", ["name"], postgresql_concurrently=True)
            while op.get_bind().execute(sa.text(
                "UPDATE event_log SET type = type || '2' WHERE (tenant_id, event_id) IN"
                " (SELECT tenant_id, event_id FROM event_log WHERE type NOT LIKE '%2' LIMIT 2)"
            )).rowcount:
                pass
        """
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as session:
        for number in range(5):
            session.execute("INSERT INTO event_log VALUES ('t', %s, 0, %s, 'a', 'p', 5, '')", [str(number), number])
        upgrade(with_later_revision(engine, tmp_path / "later", body), lock_wait_s=10)
        transactions = session.execute("SELECT DISTINCT xmin::text FROM event_log WHERE type = 'a2'").fetchall()
    assert len(transactions) == 3
    assert "later" in {index["name"] for index in inspect(engine).get_indexes("project")}


@pytest.mark.full
def test_a_second_migration_gives_up_while_another_holds_the_lock_and_names_it(
    postgres_url: str, redis_url: str, report: Session
) -> None:
    report.execute("SELECT pg_advisory_xact_lock(%s, %s)", [lock_wait._MIGRATION_LOCK, lock_number("public")])
    done = run_command(environ_of(postgres_url, redis_url), "migrate", "--lock-wait", "1")
    assert done.returncode == 1
    assert f"process {report.info.backend_pid} (a report, user postgres)" in done.stderr


@pytest.mark.full
def test_an_autovacuum_gives_way_to_a_migration(engine: Engine, report: Session, tmp_path: Path) -> None:
    """PostgreSQL cancels it, but only for a statement that has waited for `deadlock_timeout`."""
    report.autocommit = True
    report.execute("ALTER TABLE tenant SET (autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)")
    report.execute(
        "INSERT INTO tenant SELECT number::text, 0, '{}', NULL, -1, '', 0, 0 FROM generate_series(1, 20000) AS number"
    )
    report.execute("DELETE FROM tenant")
    report.execute("ALTER SYSTEM SET autovacuum_naptime = '1s'")
    report.execute("SELECT pg_reload_conf()")
    try:
        running = "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'tenant'::regclass"
        wait_until(lambda: report.execute(running).fetchone(), "the autovacuum runs")
        with capture_logs() as logs:
            upgrade(with_later_revision(engine, tmp_path / "later", ADD_COLUMN_TO_TENANT))
    finally:
        report.execute("ALTER SYSTEM RESET autovacuum_naptime")
        report.execute("SELECT pg_reload_conf()")
    assert logs[0]["event"] == "migrate.waiting"
    assert "later" in columns(engine, "tenant")


def columns(engine: Engine, table: str = "project") -> set[str]:
    return {column["name"] for column in inspect(engine).get_columns(table)}
