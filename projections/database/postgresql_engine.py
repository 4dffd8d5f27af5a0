"""Engines for PostgreSQL: session limits, bounded waits, binary results."""

import time
from typing import Any

from psycopg.pq import Format
from psycopg.types.string import BytesBinaryDumper
from sqlalchemy import URL, Connection, Engine, ExecutionContext, create_engine, event
from sqlalchemy.exc import DisconnectionError, InvalidatePoolError
from sqlalchemy.pool import ConnectionPoolEntry

from projections.database.connection import BoundedConnection, expiry_of_new_connection
from projections.database.table_names import use_schema
from projections.settings import SCHEMA_PARAMETER

# docs/decisions/0026-bound-every-wait.md
SESSION = {
    # The server ends a paused process's transaction, whose claim would stop its partition.
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "5s",
    "statement_timeout": "20s",
    # None of these ends a COPY whose client is gone; the server notices that through keepalives.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "timezone": "UTC",
}
# The kernel notices a network that drops everything; BoundedConnection notices a server that does not answer.
_CLIENT = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # ms
}
_ENCODING = {"client_encoding": "UTF8"}  # whatever PGCLIENTENCODING and the URL say
_EXPIRY = "expires_s"  # the key in the `info` of a pooled connection


def make_engine(
    url: URL, session: dict[str, str], pool_size: int, isolation_level: Any, connect_timeout_s: int | None = None
) -> Engine:
    """Return an engine. Its sessions have the common settings and those of `session`."""
    connect_args = _connect_args(url, session)
    if connect_timeout_s is not None:
        connect_args["connect_timeout"] = connect_timeout_s
    engine = create_engine(
        url,
        connect_args=connect_args,
        hide_parameters=True,  # errors must not show values of events and requests
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        isolation_level=isolation_level,
    )
    use_schema(engine.dialect, url)
    event.listen(engine, "do_connect", _connect)
    event.listen(engine, "connect", _note_expiry)
    event.listen(engine, "checkout", _refuse_closed_or_old_connection)
    event.listen(engine, "before_cursor_execute", _use_binary_results)
    return engine


def connection_options(engine: Engine, session: dict[str, str]) -> dict[str, Any]:
    """Return the arguments with which psycopg connects in the same way as the engine."""
    return _for_driver({**engine.dialect.create_connect_args(engine.url)[1], **_connect_args(engine.url, session)})


def wait_up_to(timeout_s: float, connection: Any, _record: object) -> None:
    """Set a connection's time limit for answers; a listener for the event `connect`."""
    connection.answer_timeout_s = timeout_s


def wait_forever(connection: Any, _record: object) -> None:
    """Remove a connection's time limit for answers; a listener for the event `connect`."""
    connection.answer_timeout_s = None


def _connect_args(url: URL, session: dict[str, str]) -> dict[str, Any]:
    """Return what the URL does not set. Its `options` come first, because the last value of a name counts."""
    client = {name: value for name, value in _CLIENT.items() if name not in url.query}
    options = [f"-c {name}={value}" for name, value in (SESSION | session).items()]
    return client | _ENCODING | {"options": " ".join([str(url.query.get("options", "")), *options]).strip()}


def _for_driver(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name != SCHEMA_PARAMETER}


def _connect(_dialect: object, _record: object, args: Any, options: Any) -> BoundedConnection:
    connection = BoundedConnection.connect(*args, **_for_driver(options))
    # Otherwise COPY uses psycopg's Python dumper for its wrapper `Binary`, which doubles the time of a row.
    connection.adapters.register_dumper(bytes, BytesBinaryDumper)
    return connection


def _note_expiry(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info[_EXPIRY] = expiry_of_new_connection()


def _refuse_closed_or_old_connection(connection: BoundedConnection, record: ConnectionPoolEntry, _: object) -> None:
    """Make the pool replace this connection if it is old, and all older ones too if it is closed."""
    if connection.is_closed_by_server:
        raise InvalidatePoolError
    if time.monotonic() > record.info[_EXPIRY]:
        raise DisconnectionError


def _use_binary_results(
    _connection: Connection, cursor: Any, _statement: str, _parameters: object, context: ExecutionContext, _many: bool
) -> None:
    if context.execution_options.get("binary"):
        cursor.format = Format.BINARY
