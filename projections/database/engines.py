"""Engines for PostgreSQL and SQLite: one for processes that write, one for reads, one for long statements."""

from functools import partial
from typing import Any

from psycopg.errors import QueryCanceled
from sqlalchemy import URL, Connection, Engine, event, make_url
from sqlalchemy.exc import DBAPIError

from projections.database import postgresql_engine, sqlite_engine

# The planner's statistics of a fast-growing table are always old, and bitmap scans took twice as long to prune feeds.
_WRITER_SESSION = {"enable_bitmapscan": "off"}
_MIGRATION_SESSION = {"lock_timeout": "0", "statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
# With these settings each statement has one possible plan, by index and in key order, whatever the statistics are
# (docs/decisions/0027-no-scans-for-readers.md).
_READER_SESSION = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
# A bitmap scan has no order, so the first of many rows would be found only after reading and sorting all of them.
_SCANS = ("enable_seqscan", "enable_bitmapscan", "enable_sort")


def writer_engine(database_url: str) -> Engine:
    """Return the engine of a process that writes. On SQLite every transaction locks the database from its start."""
    engine = _engine(database_url, pool_size=2, session=_WRITER_SESSION)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", _lock_sqlite)
    return engine


def reader_engine(database_url: str, pool_size: int = 2) -> Engine:
    """Return an engine whose statements each see one snapshot.

    On PostgreSQL, plans that scan a table are switched off, so that a read never costs O(rows).
    """
    return _engine(database_url, pool_size=pool_size, session=_READER_SESSION, isolation_level="AUTOCOMMIT")


def migration_engine(database_url: str) -> Engine:
    """Return the engine of a migration. Nothing limits its statements; it bounds its waits for locks itself."""
    engine = _engine(database_url, pool_size=2, session=_MIGRATION_SESSION)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", _lock_sqlite)
    else:
        event.listen(engine, "connect", postgresql_engine.wait_forever)
    return engine


def report_engine(database_url: str, timeout_s: float) -> Engine:
    """Return an engine that reads as `reader_engine` does, from a server that may be silent for `timeout_s` seconds."""
    session = _READER_SESSION | {"statement_timeout": f"{int(timeout_s * 1000)}"}
    engine = _engine(database_url, 2, session, "AUTOCOMMIT", connect_timeout_s=int(timeout_s))  # psycopg: at least 2 s
    if engine.dialect.name == "postgresql":
        event.listen(engine, "connect", partial(postgresql_engine.wait_up_to, timeout_s))
    return engine


def audit_engine(database_url: str | URL, timeout_s: float) -> Engine:
    """Return an engine for long reads: each statement sees one snapshot and may take `timeout_s` seconds."""
    session = {"statement_timeout": f"{int(timeout_s * 1000)}"}
    engine = _engine(database_url, pool_size=1, session=session, isolation_level="AUTOCOMMIT")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "before_cursor_execute", partial(sqlite_engine.limit_statement, timeout_s))
    else:
        event.listen(engine, "connect", partial(postgresql_engine.wait_up_to, timeout_s + 5))
    return engine


def reader_connection_options(engine: Engine) -> dict[str, Any]:
    """Return the arguments with which psycopg connects to PostgreSQL as `reader_engine` does."""
    return postgresql_engine.connection_options(engine, _READER_SESSION)


def is_statement_timeout(error: DBAPIError) -> bool:
    """Return whether the database ended a statement because of its time limit."""
    return isinstance(error.orig, QueryCanceled) or str(error.orig) == "interrupted"


def disable_scans(connection: Connection) -> None:
    """Switch off plans that scan a table, until the transaction ends. SQLite needs no such setting."""
    if connection.dialect.name == "postgresql":
        for plan in _SCANS:
            connection.exec_driver_sql(f"SET LOCAL {plan} = off")


def _lock_sqlite(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _engine(
    database_url: str | URL,
    pool_size: int,
    session: dict[str, str],
    isolation_level: Any = None,
    connect_timeout_s: int | None = None,
) -> Engine:
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        return sqlite_engine.make_engine(url, pool_size, isolation_level)
    return postgresql_engine.make_engine(url, session, pool_size, isolation_level, connect_timeout_s)
