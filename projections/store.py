"""The database: engines, metadata, column types."""

from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import (
    BigInteger,
    Connection,
    Dialect,
    Engine,
    MetaData,
    Text,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.types import TypeDecorator

from projections.connection import BoundedConnection

Row: TypeAlias = tuple[Any, ...]

metadata = MetaData()


class UnsignedBigInteger(TypeDecorator[int]):
    """A number of 64 bits without a sign, as both halves of an entry id are; the database holds it signed.

    Such columns are compared for equality only.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, _dialect: Dialect) -> int | None:
        """Return the signed number with the same bits."""
        return value - 2**64 if value is not None and value >= 2**63 else value

    def process_result_value(self, value: int | None, _dialect: Dialect) -> int | None:
        """Return the unsigned number with the same bits."""
        return value + 2**64 if value is not None and value < 0 else value


# Identifiers compare byte by byte on both databases, as they do in Python.
KeyText = Text().with_variant(Text(collation="C"), "postgresql")

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


def writer_engine(database_url: str) -> Engine:
    """Return the engine of a process that writes: on SQLite every transaction holds the write lock from its start."""
    engine = _engine(database_url, pool_size=2)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reader_engine(database_url: str, pool_size: int = 2) -> Engine:
    """Return an engine whose statements each see one snapshot; on PostgreSQL they must go through keys.

    Plans that scan a table are switched off there, so that no statistics, however stale, cost a reader O(rows).
    """
    options = dict.fromkeys((*_SCANS, "enable_hashjoin", "enable_mergejoin", "jit"), "off")
    return _engine(database_url, pool_size=pool_size, session=options, isolation_level="AUTOCOMMIT")


def go_through_keys(connection: Connection) -> None:
    """Switch plans that scan a table off until the transaction ends, as readers do."""
    if connection.dialect.name == "postgresql":
        for plan in _SCANS:
            connection.exec_driver_sql(f"SET LOCAL {plan} = off")


def _engine(
    database_url: str, pool_size: int, session: dict[str, str] | None = None, isolation_level: Any = None
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
    options = " ".join(f"-c {name}={value}" for name, value in (_POSTGRESQL_SESSION | (session or {})).items())
    engine = create_engine(
        url,
        connect_args=_POSTGRESQL_CLIENT | {"options": options},
        hide_parameters=True,  # in errors: they are what events and requests hold
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=5,
        pool_pre_ping=True,
        isolation_level=isolation_level,
    )
    event.listen(
        engine, "do_connect", lambda _dialect, _record, args, options: BoundedConnection.connect(*args, **options)
    )
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transactions are switched off; ours begin where SQLAlchemy says so.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -65536"):
        connection.execute(f"PRAGMA {pragma}")
