"""The database: engines, metadata, column types."""

import sqlite3
import time
from functools import partial
from pathlib import Path
from typing import Any

from psycopg.errors import QueryCanceled
from psycopg.pq import Format
from psycopg.types.string import BytesBinaryDumper
from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Engine,
    ExecutionContext,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError, InvalidatePoolError

from projections.database.connection import BoundedConnection
from projections.database.fingerprint import fingerprint_of

_POSTGRESQL_SESSION = {
    # A paused holder of a claim would stop its partition: the server ends it, and the claim is free again.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "5s",
    "statement_timeout": "20s",
    # None of these looks at a COPY whose sender is gone: the server must notice by itself that nobody is there.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "timezone": "UTC",
}
# A table that grows fast is never as the planner believes: to prune 150 groups through bitmaps took it twice as long.
_POSTGRESQL_WRITER = {"enable_bitmapscan": "off"}
_POSTGRESQL_READER = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    # Rows come in the order of their key, so that no more are looked at than are wanted.
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    # With these there is but one plan, whatever is asked: making it again would take longer than the read.
    "plan_cache_mode": "force_generic_plan",
    "jit": "off",
}
# A network that swallows everything is noticed by the kernel; a server that does not answer, by BoundedConnection.
_POSTGRESQL_CLIENT = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms
}
# A bitmap has no order: with it the first of many rows would cost all of them, and a sort.
_SCANS = ("enable_seqscan", "enable_bitmapscan", "enable_sort")
_SQLITE_BUSY_TIMEOUT_S = 5
_SQLITE_STEPS_PER_LOOK = 100_000


def writer_engine(database_url: str) -> Engine:
    """Return the engine of a process that writes: on SQLite every transaction holds the write lock from its start."""
    engine = _engine(database_url, pool_size=2, session=_POSTGRESQL_WRITER)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reader_engine(database_url: str, pool_size: int = 2) -> Engine:
    """Return an engine whose statements each see one snapshot; on PostgreSQL they must go through keys.

    Plans that scan a table are switched off there, so that no statistics, however stale, cost a reader O(rows).
    """
    return _engine(database_url, pool_size=pool_size, session=_POSTGRESQL_READER, isolation_level="AUTOCOMMIT")


def audit_engine(database_url: str | URL, statement_s: float) -> Engine:
    """Return an engine for statements that look at much: each may take `statement_s`, and sees one snapshot."""
    session = {"statement_timeout": f"{int(statement_s * 1000)}"}
    engine = _engine(database_url, pool_size=1, session=session, isolation_level="AUTOCOMMIT")
    if engine.dialect.name == "sqlite":
        event.listen(engine, "before_cursor_execute", partial(_limit_sqlite, statement_s))
    else:
        event.listen(engine, "connect", partial(_wait_for_answers, statement_s))
    return engine


def is_statement_timeout(error: DBAPIError) -> bool:
    """Return whether an error says that a statement took longer than it may."""
    return isinstance(error.orig, QueryCanceled) or str(error.orig) == "interrupted"


def reader_options(url: URL) -> dict[str, Any]:
    """Return what psycopg needs to connect to PostgreSQL as `reader_engine` does."""
    return {**psycopg_dialect().create_connect_args(url)[1], **_postgresql_options(_POSTGRESQL_READER)}


def psycopg_dialect() -> Dialect:
    """Return the dialect that PostgreSQL's driver speaks, for what does not go through an engine."""
    make: Any = PGDialect_psycopg
    dialect: Dialect = make()
    return dialect


def disable_scans(connection: Connection) -> None:
    """Switch plans that scan a table off until the transaction ends, as readers do."""
    if connection.dialect.name == "postgresql":
        for plan in _SCANS:
            connection.exec_driver_sql(f"SET LOCAL {plan} = off")


def _engine(
    database_url: str | URL, pool_size: int, session: dict[str, str] | None = None, isolation_level: Any = None
) -> Engine:
    url = make_url(database_url)
    if url.get_backend_name() == "sqlite":
        if url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url,
            connect_args={"timeout": _SQLITE_BUSY_TIMEOUT_S, "check_same_thread": False},
            hide_parameters=True,
            pool_size=pool_size,
            isolation_level=isolation_level,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    engine = create_engine(
        url,
        connect_args=_postgresql_options(session or {}),
        hide_parameters=True,  # in errors: they are what events and requests hold
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        isolation_level=isolation_level,
    )
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "checkout", _refuse_hung_up)
    event.listen(engine, "before_cursor_execute", _answer_in_binary)
    return engine


def _connect(_dialect: object, _record: object, args: Any, options: Any) -> BoundedConnection:
    connection = BoundedConnection.connect(*args, **options)
    # Else COPY takes psycopg's dumper for its wrapper `Binary`, in Python: that took as long as the rest of a row.
    connection.adapters.register_dumper(bytes, BytesBinaryDumper)
    return connection


def _refuse_hung_up(connection: BoundedConnection, _record: object, _proxy: object) -> None:
    """Let the pool connect anew, and forget all older connections, if the server has closed this one meanwhile."""
    if connection.is_hung_up:
        raise InvalidatePoolError


def _postgresql_options(session: dict[str, str]) -> dict[str, Any]:
    options = " ".join(f"-c {name}={value}" for name, value in (_POSTGRESQL_SESSION | session).items())
    return _POSTGRESQL_CLIENT | {"options": options}


def _answer_in_binary(
    _connection: Connection, cursor: Any, _statement: str, _parameters: object, context: ExecutionContext, _many: bool
) -> None:
    if context.execution_options.get("binary"):
        cursor.format = Format.BINARY


def _wait_for_answers(statement_s: float, connection: Any, _record: object) -> None:
    connection.answer_within_s = statement_s + 5


def _limit_sqlite(statement_s: float, connection: Connection, *_: object) -> None:
    """Let SQLite give up the statement that begins now, as PostgreSQL does by itself."""
    deadline_s = time.monotonic() + statement_s
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > deadline_s, _SQLITE_STEPS_PER_LOOK)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transactions are switched off; ours begin where SQLAlchemy says so.
    connection.isolation_level = None
    try:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -65536"):
            connection.execute(f"PRAGMA {pragma}")
    except sqlite3.Error:
        connection.close()  # nobody else will
        raise
    connection.create_function("fingerprint", 1, fingerprint_of, deterministic=True)
