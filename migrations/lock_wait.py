"""How a migration waits for locks: briefly and again, so that the readers and writers behind it do not wait.

On PostgreSQL, a statement that waits for an exclusive lock makes every later statement on the table wait too
(docs/decisions/0056-migrations-wait-briefly-for-locks.md).
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import NamedTuple

import psycopg
import structlog
from psycopg.errors import LockNotAvailable
from psycopg.rows import class_row
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from projections.database.postgresql_engine import connection_options
from projections.database.table_names import lock_number, schema_name
from projections.errors import ProjectionsError
from projections.transaction import checkpoint_table

LOCK_WAIT_S = 60.0
_LOCK_TIMEOUT_S = 0.5
# PostgreSQL cancels an autovacuum that blocks a statement, but only after `deadlock_timeout`, which is 1 s by default.
_LOCK_TIMEOUT_FOR_AUTOVACUUM_S = 1.5
_PAUSE_S = 1.0
_LOOK_EVERY_S = 0.1
_MIGRATION_LOCK = 0x50524F4A  # "PROJ"; any number that no other application on the database uses
_BLOCKERS = """
    SELECT blocker AS pid, holder.application_name AS application, holder.usename AS user,
        extract(epoch FROM clock_timestamp() - holder.xact_start)::float8 AS open_s,
        coalesce(holder.backend_type = 'autovacuum worker', false) AS is_autovacuum
    FROM pg_stat_activity AS waiter
    CROSS JOIN unnest(pg_blocking_pids(waiter.pid)) AS blocker
    LEFT JOIN pg_stat_activity AS holder ON holder.pid = blocker
    WHERE waiter.application_name = %s AND waiter.datname = current_database() AND waiter.wait_event_type = 'Lock'
"""

log = structlog.get_logger()


class Blocker(NamedTuple):
    """A session that holds a lock for which a migration waits. `pid` is 0 for a prepared transaction."""

    pid: int
    application: str | None
    user: str | None
    open_s: float | None
    is_autovacuum: bool

    def __str__(self) -> str:
        """Return the session's pid, application name, user, and the age of its transaction."""
        if not self.pid:
            return "a prepared transaction (see pg_prepared_xacts)"
        names = ", ".join(filter(None, (self.application, self.user and f"user {self.user}")))
        age = "" if self.open_s is None else f", whose transaction is {self.open_s:.0f} s old"
        return f"process {self.pid}{f' ({names})' if names else ''}{age}"


class MigrationBlockedError(ProjectionsError):
    """Other sessions kept locks that a migration needs."""

    def __init__(self, waited_s: float, blockers: Sequence[Blocker]) -> None:
        holders = "; ".join(map(str, blockers)) or "a session that this user cannot see (see pg_blocking_pids)"
        pid = next((blocker.pid for blocker in blockers if blocker.pid), "<pid>")
        super().__init__(
            f"the migration got no lock within {waited_s:g} s, which is held by {holders}; end that transaction in its"
            f" application, or `SELECT pg_terminate_backend({pid})`, and run `projector migrate` again"
        )


class LockWait:
    """Applies the steps of a migration, each again while other sessions hold its locks, for `wait_s` in all."""

    def __init__(self, engine: Engine, wait_s: float) -> None:
        self._engine = engine
        self._wait_s = wait_s
        self._deadline = time.monotonic() + wait_s
        self._blockers: Sequence[Blocker] = ()
        self._closed = Event()
        self._schema = schema_name(engine.dialect, checkpoint_table.table) or ""
        self._application_name = f"projector migrate {self._schema}"
        self._watcher = Thread(target=self._watch, daemon=True)

    @contextmanager
    def one_migration_at_a_time(self) -> Iterator[None]:
        """Hold the lock that one migration of a schema has. On SQLite, transactions are exclusive anyway."""
        if self._engine.dialect.name != "postgresql":
            yield
            return
        with self._engine.connect() as connection:
            self._watcher.start()
            try:
                # Nobody else queues for this lock, so one long wait is enough.
                self.limit(connection, self._wait_s)
                try:
                    # Without parameters: a statement that has some would keep its snapshot until the next one, and
                    # CREATE INDEX CONCURRENTLY would wait for that.
                    keys = f"{_MIGRATION_LOCK}, {lock_number(self._schema)}"
                    connection.execute(text(f"SELECT pg_advisory_xact_lock({keys})"))
                except DBAPIError as error:
                    raise self._blocked(error) from error
                self._create_schema()
                yield
            finally:
                self._closed.set()
                self._watcher.join()

    def retry(self, step: Callable[[], None]) -> None:
        """Call `step` until it gets its locks. Raises MigrationBlockedError when the time is over."""
        while True:
            try:
                return step()
            except DBAPIError as error:
                if not isinstance(error.orig, LockNotAvailable) or time.monotonic() > self._deadline:
                    raise self._blocked(error) from error
            log.warning("migrate.waiting", blockers=[str(blocker) for blocker in self._blockers])
            time.sleep(random.uniform(0.5, 1.5) * _PAUSE_S)  # noqa: S311 (not for security)

    def limit(self, connection: Connection, lock_timeout_s: float | None = None) -> None:
        """Bound the waits for locks in this transaction; by default, briefly."""
        if self._engine.dialect.name != "postgresql":
            return
        if lock_timeout_s is None:
            is_autovacuum = any(blocker.is_autovacuum for blocker in self._blockers)
            lock_timeout_s = _LOCK_TIMEOUT_FOR_AUTOVACUUM_S if is_autovacuum else _LOCK_TIMEOUT_S
        settings = {
            "application_name": self._application_name,
            "lock_timeout": f"{lock_timeout_s * 1000:.0f}",
            "search_path": self._schema,  # for revisions, which do not know the schema
        }
        for name, value in settings.items():
            connection.execute(text("SELECT set_config(:name, :value, true)"), {"name": name, "value": value})

    def _create_schema(self) -> None:
        """Create the schema if it does not exist. Its owner may be another role, so nothing else is tried."""
        with self._engine.begin() as connection:
            if not inspect(connection).has_schema(self._schema):
                connection.execute(CreateSchema(self._schema))

    def _blocked(self, error: DBAPIError) -> Exception:
        return (
            MigrationBlockedError(self._wait_s, self._blockers) if isinstance(error.orig, LockNotAvailable) else error
        )

    def _watch(self) -> None:
        """Note which sessions block the migration while it waits: afterwards, the server does not say."""
        if self._closed.wait(_LOOK_EVERY_S):
            return
        options = connection_options(self._engine, {})
        with suppress(psycopg.Error), psycopg.connect(**options, autocommit=True) as onlooker:
            cursor = onlooker.cursor(row_factory=class_row(Blocker))
            while not self._closed.wait(_LOOK_EVERY_S):
                self._blockers = cursor.execute(_BLOCKERS, [self._application_name]).fetchall() or self._blockers
