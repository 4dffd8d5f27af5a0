"""Write many rows at once, on PostgreSQL and SQLite: insert, upsert, delete."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    delete,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.types import TypeEngine

from projections.database.columns import Row
from projections.database.pipeline import execute_driver_sql
from projections.database.table_names import qualified

# Up to this many rows, an INSERT is as fast as a COPY. Unlike a COPY, it can be pipelined.
COPY_ABOVE_ROWS = 20
_TYPE_NAMES: dict[type[TypeEngine[Any]], str] = {
    BigInteger: "int8",
    Boolean: "bool",
    Integer: "int4",
    LargeBinary: "bytea",
    Text: "text",
}


def dialect_insert(connection: Connection, table: Table) -> Any:
    """Return an INSERT that supports ON CONFLICT. The syntax is the same, but SQLAlchemy has a class per dialect."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    return insert(table)


def insert_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert new rows, whose values are in the order of the table's columns."""
    with inserting_rows(connection, table, rows):
        pass


@contextmanager
def inserting_rows(connection: Connection, table: Table, rows: Sequence[Row]) -> Iterator[None]:
    """Insert rows as `insert_rows` does, by the end of the block; PostgreSQL stores them while the block runs.

    The block must not use the connection. If it raises, roll the transaction back.
    """
    if not rows:
        yield
    elif connection.dialect.name == "postgresql" and len(rows) > COPY_ABOVE_ROWS:
        with _copying(connection, table, rows):
            yield
    elif connection.dialect.name == "postgresql":
        execute_driver_sql(
            connection, _insert_from_arrays(qualified(connection.dialect, table), table), _as_arrays(rows)
        )
        yield
    else:
        marks = ", ".join("?" * len(table.columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", list(rows))
        yield


def upsert_rows(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Insert or replace rows, whose values are in the order of the table's columns."""
    width = len(table.primary_key.columns)
    ordered = sorted(rows, key=lambda row: row[:width])
    if not ordered:
        return
    if connection.dialect.name == "postgresql":
        # Sending columns as arrays is as fast as a COPY into a temporary table, and simpler.
        insert = _insert_from_arrays(qualified(connection.dialect, table), table)
        execute_driver_sql(connection, f"{insert} {_on_conflict(table)}", _as_arrays(ordered))
        return
    marks = ", ".join("?" * len(table.columns))
    connection.exec_driver_sql(f"{_insert_prefix(table.name, table)} VALUES ({marks}) {_on_conflict(table)}", ordered)


def delete_rows(connection: Connection, table: Table, keys: Sequence[Row]) -> None:
    """Delete the rows with these primary keys."""
    if not keys:
        return
    names = [f"k{index}" for index in range(len(table.primary_key.columns))]
    key_matches = [column == bindparam(name) for name, column in zip(names, table.primary_key.columns, strict=True)]
    connection.execute(delete(table).where(*key_matches), [dict(zip(names, key, strict=True)) for key in keys])


@contextmanager
def _copying(connection: Connection, table: Table, rows: Sequence[Row]) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(
            f"COPY {qualified(connection.dialect, table)} ({_names(table)}) FROM STDIN (FORMAT BINARY)"
        ) as copy,
    ):
        copy.set_types([_type_name(column) for column in table.columns])
        for row in rows:
            copy.write_row(row)
        yield


def _type_name(column: Column[Any]) -> str:
    return next(_TYPE_NAMES[kind] for kind in type(column.type).__mro__ if kind in _TYPE_NAMES)


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)


def _insert_prefix(name: str, table: Table) -> str:
    return f"INSERT INTO {name} ({_names(table)})"


@cache
def _insert_from_arrays(name: str, table: Table) -> str:
    arrays = ", ".join(f"%b::{_type_name(column)}[]" for column in table.columns)
    return f"{_insert_prefix(name, table)} SELECT * FROM unnest({arrays})"


def _as_arrays(rows: Sequence[Row]) -> Sequence[list[Any]]:
    return [list(values) for values in zip(*rows, strict=True)]


@cache
def _on_conflict(table: Table) -> str:
    primary_key = ", ".join(column.name for column in table.primary_key.columns)
    value_columns = [column.name for column in table.columns if not column.primary_key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in value_columns)
    return f"ON CONFLICT ({primary_key}) DO UPDATE SET {changes}"
