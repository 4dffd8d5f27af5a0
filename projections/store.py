"""The database: engines, metadata, and the ways to look up and to write in bulk on PostgreSQL and SQLite."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from sqlalchemy import (
    URL,
    BigInteger,
    Boolean,
    Column,
    Connection,
    Dialect,
    Engine,
    FromClause,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    Table,
    Text,
    bindparam,
    create_engine,
    event,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.types import TypeDecorator, TypeEngine

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
_SQLITE_BUSY_TIMEOUT_S = 5
_COPY_TYPES: dict[type[TypeEngine[Any]], str] = {
    BigInteger: "int8",
    Boolean: "bool",
    Integer: "int4",
    LargeBinary: "bytea",
    Text: "text",
}


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
    return _engine(database_url, pool_size=pool_size, session=_POSTGRESQL_READER, isolation_level="AUTOCOMMIT")


def reader_options(url: URL) -> dict[str, Any]:
    """Return what psycopg needs to connect to PostgreSQL as `reader_engine` does."""
    return {**psycopg_dialect().create_connect_args(url)[1], **_postgresql_options(_POSTGRESQL_READER)}


def psycopg_dialect() -> Dialect:
    """Return the dialect that PostgreSQL's driver speaks, for what does not go through an engine."""
    make: Any = PGDialect_psycopg
    dialect: Dialect = make()
    return dialect


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
            pool_size=pool_size,
            isolation_level=isolation_level,
        )
        event.listen(engine, "connect", _prepare_sqlite)
        return engine
    engine = create_engine(
        url,
        connect_args=_postgresql_options(session or {}),
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


def _postgresql_options(session: dict[str, str]) -> dict[str, Any]:
    options = " ".join(f"-c {name}={value}" for name, value in (_POSTGRESQL_SESSION | session).items())
    return _POSTGRESQL_CLIENT | {"options": options}


def _prepare_sqlite(connection: Any, _record: object) -> None:
    # The driver's own transactions are switched off; ours begin where SQLAlchemy says so.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "cache_size = -65536"):
        connection.execute(f"PRAGMA {pragma}")


def dialect_insert(connection: Connection, table: Table) -> Any:
    """Return an INSERT that knows ON CONFLICT, which both databases spell alike and SQLAlchemy does not share."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table)


def key_rows(dialect_name: str, columns: Sequence[Column[Any]]) -> FromClause:
    """Return bound keys as a table `k` with one column for each of `columns`, in their order.

    Execute with `bind_keys`. One statement then answers any number of keys, and its text stays the same.
    """
    names = [f"k{index}" for index in range(len(columns))]
    if dialect_name == "postgresql":
        arrays = [bindparam(name, type_=ARRAY(column.type)) for name, column in zip(names, columns, strict=True)]
        return func.unnest(*arrays).table_valued(*names, name="k").render_derived()
    rows = func.json_each(bindparam("keys", type_=Text)).table_valued("value", name="each_key")
    return select(
        *(func.json_extract(rows.c.value, f"$[{index}]").label(name) for index, name in enumerate(names))
    ).subquery("k")


def bind_keys(dialect_name: str, keys: Sequence[Row]) -> dict[str, Any]:
    """Return the parameters that `key_rows` waits for."""
    if dialect_name == "postgresql":
        return {f"k{index}": list(values) for index, values in enumerate(zip(*keys, strict=True))}
    return {"keys": json.dumps(keys)}


def find(connection: Connection, table: Table, columns: Sequence[Column[Any]], keys: Sequence[Row]) -> list[Row]:
    """Return `columns` of the rows of `table` whose primary key is among `keys`, in no order."""
    if not keys:
        return []
    name = connection.dialect.name
    return [tuple(row) for row in connection.execute(find_statement(name, table, columns), bind_keys(name, keys))]


def find_statement(dialect_name: str, table: Table, columns: Sequence[Column[Any]]) -> Select[Any]:
    """Return the statement of `find`, for `bind_keys`."""
    primary_key = list(table.primary_key.columns)
    keys = key_rows(dialect_name, primary_key)
    matches = [column == key for column, key in zip(primary_key, keys.c, strict=True)]
    return select(*columns).select_from(keys).join(table, _all(matches))


def _all(conditions: Sequence[Any]) -> Any:
    first, *others = conditions
    for condition in others:
        first &= condition
    return first


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert rows given in the order of the table's columns; none of them may exist."""
    if not rows:
        return
    if connection.dialect.name == "postgresql":
        _copy(connection, table, table.name, rows)
        return
    marks = ", ".join("?" * len(table.columns))
    connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", list(rows))


def upsert_rows(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Insert or replace rows given in the order of the table's columns, in the order of their keys."""
    width = len(table.primary_key.columns)
    ordered = sorted(rows, key=lambda row: row[:width])
    if not ordered:
        return
    if connection.dialect.name == "postgresql":
        # A staged COPY costs a fifth of an INSERT per row; the stage empties itself at the end of the transaction.
        stage = f"stage_{table.name}"
        connection.execute(text(f"CREATE TEMP TABLE IF NOT EXISTS {stage} (LIKE {table.name}) ON COMMIT DELETE ROWS"))
        _copy(connection, table, stage, ordered)
        connection.execute(text(f"{_upsert_prefix(table)} SELECT {_names(table)} FROM {stage} {_on_conflict(table)}"))
        return
    marks = ", ".join("?" * len(table.columns))
    connection.exec_driver_sql(f"{_upsert_prefix(table)} VALUES ({marks}) {_on_conflict(table)}", ordered)


def _copy(connection: Connection, table: Table, target: str, rows: Sequence[Row]) -> None:
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {target} ({_names(table)}) FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types([_copy_type(column) for column in table.columns])
        for row in rows:
            copy.write_row(row)


def _copy_type(column: Column[Any]) -> str:
    return next(_COPY_TYPES[kind] for kind in type(column.type).__mro__ if kind in _COPY_TYPES)


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)


def _upsert_prefix(table: Table) -> str:
    return f"INSERT INTO {table.name} ({_names(table)})"


def _on_conflict(table: Table) -> str:
    primary_key = ", ".join(column.name for column in table.primary_key.columns)
    others = [column.name for column in table.columns if not column.primary_key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in others)
    return f"ON CONFLICT ({primary_key}) DO UPDATE SET {changes}"
