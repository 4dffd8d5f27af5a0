"""Many rows at once, on PostgreSQL and SQLite: look up by keys, insert, upsert, keep the newest."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Delete,
    FromClause,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    bindparam,
    delete,
    func,
    select,
    true,
    tuple_,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from projections.database.columns import Row
from projections.database.pipeline import Query, execute, execute_driver_sql, fetch

FEW_ROWS = 20  # so few are inserted as soon by a statement, which can go together with others, as a COPY cannot
_BETWEEN_KEYS = "\x1f"
_TYPE_NAMES: dict[type[TypeEngine[Any]], str] = {
    BigInteger: "int8",
    Boolean: "bool",
    Integer: "int4",
    LargeBinary: "bytea",
    Text: "text",
}


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
        arrays = [_key_array(name, column) for name, column in zip(names, columns, strict=True)]
        return func.unnest(*arrays).table_valued(*names, name="k").render_derived()
    rows = func.json_each(bindparam("keys", type_=Text)).table_valued("value", name="each_key")
    return select(
        *(func.json_extract(rows.c.value, f"$[{index}]").label(name) for index, name in enumerate(names))
    ).subquery("k")


def bind_keys(dialect_name: str, keys: Sequence[Row]) -> dict[str, Any]:
    """Return the parameters that `key_rows` waits for; a key's text must not hold U+001F."""
    if dialect_name == "postgresql":
        return {f"k{index}": _bound(values) for index, values in enumerate(zip(*keys, strict=True))}
    return {"keys": json.dumps(keys)}


def _key_array(name: str, column: Column[Any]) -> ColumnElement[Any]:
    """Return a bound array; of text as one text that the server splits, which costs a tenth of an array to send."""
    if isinstance(column.type, Text):
        return func.string_to_array(bindparam(name, type_=Text), _BETWEEN_KEYS)
    return bindparam(name, type_=ARRAY(column.type))


def _bound(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], str):
        return list(values)
    joined = _BETWEEN_KEYS.join(values)
    if joined.count(_BETWEEN_KEYS) != len(values) - 1:
        raise ValueError("a key holds U+001F")
    return joined


def find(connection: Connection, table: Table, columns: Sequence[Column[Any]], keys: Sequence[Row]) -> Sequence[Row]:
    """Return `columns` of the rows of `table` whose primary key is among `keys`, in no order."""
    (found,) = fetch(connection, find_query(connection, table, columns, keys))
    return found


def find_query(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], keys: Sequence[Row]
) -> Query | None:
    """Return what `find` asks; None where there are no keys."""
    if not keys:
        return None
    name = connection.dialect.name
    return Query(find_statement(name, table, tuple(columns)), bind_keys(name, keys))


@cache
def find_statement(dialect_name: str, table: Table, columns: tuple[Column[Any], ...]) -> Select[Any]:
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
    with insert_while(connection, table, rows):
        pass


@contextmanager
def insert_while(connection: Connection, table: Table, rows: Sequence[Row]) -> Iterator[None]:
    """Insert rows as `insert_rows` does, by the end of the block: PostgreSQL stores them while the block runs.

    The block must leave the connection alone. If it raises, the transaction has to be rolled back.
    """
    if not rows:
        yield
    elif connection.dialect.name == "postgresql" and len(rows) > FEW_ROWS:
        with _copying(connection, table, rows):
            yield
    elif connection.dialect.name == "postgresql":
        execute_driver_sql(connection, _insert_from_arrays(table), _as_arrays(rows))
        yield
    else:
        marks = ", ".join("?" * len(table.columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} VALUES ({marks})", list(rows))
        yield


def upsert_rows(connection: Connection, table: Table, rows: Iterable[Row]) -> None:
    """Insert or replace rows given in the order of the table's columns, in the order of their keys."""
    width = len(table.primary_key.columns)
    ordered = sorted(rows, key=lambda row: row[:width])
    if not ordered:
        return
    if connection.dialect.name == "postgresql":
        # Columns as arrays: as fast as a COPY staged in a temporary table, and there is none to make and to empty.
        execute_driver_sql(connection, f"{_insert_from_arrays(table)} {_on_conflict(table)}", _as_arrays(ordered))
        return
    marks = ", ".join("?" * len(table.columns))
    connection.exec_driver_sql(f"{_insert_prefix(table)} VALUES ({marks}) {_on_conflict(table)}", ordered)


def delete_rows(connection: Connection, table: Table, keys: Sequence[Row]) -> None:
    """Delete the rows with these primary keys."""
    if not keys:
        return
    names = [f"k{index}" for index in range(len(table.primary_key.columns))]
    mine = [column == bindparam(name) for name, column in zip(names, table.primary_key.columns, strict=True)]
    connection.execute(delete(table).where(*mine), [dict(zip(names, key, strict=True)) for key in keys])


def keep_newest(
    connection: Connection,
    table: Table,
    group: tuple[Column[Any], ...],
    order: tuple[Column[Any], ...],
    keep: int,
    groups: Sequence[Row],
) -> None:
    """Delete the rows of each of `groups` but the `keep` last by `order`; the primary key is `group` and `order`."""
    if not groups:
        return
    if connection.dialect.name == "postgresql":
        execute(connection, _keep_newest_of_all(table, group, order, keep), bind_keys("postgresql", groups))
        return
    names = [f"k{index}" for index in range(len(group))]
    keys = [dict(zip(names, each, strict=True)) for each in groups]
    connection.execute(_keep_newest_of_one(table, group, order, keep), keys)


@cache
def _keep_newest_of_one(
    table: Table, group: tuple[Column[Any], ...], order: tuple[Column[Any], ...], keep: int
) -> Delete:
    of_group = [column == bindparam(f"k{index}") for index, column in enumerate(group)]
    newest = select(*order).where(*of_group).order_by(*(column.desc() for column in order))
    oldest_kept = newest.offset(keep - 1).limit(1).scalar_subquery()
    return delete(table).where(*of_group, tuple_(*order) < oldest_kept)


@cache
def _keep_newest_of_all(
    table: Table, group: tuple[Column[Any], ...], order: tuple[Column[Any], ...], keep: int
) -> Delete:
    keys, other = key_rows("postgresql", group), table.alias("other")
    ordered = [other.c[column.name] for column in order]
    of_group = [other.c[column.name] == key for column, key in zip(group, keys.c, strict=True)]
    newest = select(*ordered).where(*of_group).order_by(*(column.desc() for column in ordered))
    oldest_kept = newest.offset(keep - 1).limit(1).lateral()
    # Materialized, or the planner may look for a group's oldest kept row once for each of its rows.
    found = select(*keys.c, *oldest_kept.c).select_from(keys).join(oldest_kept, true())
    kept = found.cte("oldest_kept").prefix_with("MATERIALIZED")
    in_group = [column == key for column, key in zip(group, kept.c, strict=False)]
    return delete(table).where(*in_group, tuple_(*order) < tuple_(*list(kept.c)[len(group) :]))


@contextmanager
def _copying(connection: Connection, table: Table, rows: Sequence[Row]) -> Iterator[None]:
    driver: Any = connection.connection.driver_connection
    with (
        driver.cursor() as cursor,
        cursor.copy(f"COPY {table.name} ({_names(table)}) FROM STDIN (FORMAT BINARY)") as copy,
    ):
        copy.set_types([_type_name(column) for column in table.columns])
        for row in rows:
            copy.write_row(row)
        yield


def _type_name(column: Column[Any]) -> str:
    return next(_TYPE_NAMES[kind] for kind in type(column.type).__mro__ if kind in _TYPE_NAMES)


def _names(table: Table) -> str:
    return ", ".join(column.name for column in table.columns)


def _insert_prefix(table: Table) -> str:
    return f"INSERT INTO {table.name} ({_names(table)})"


@cache
def _insert_from_arrays(table: Table) -> str:
    arrays = ", ".join(f"%b::{_type_name(column)}[]" for column in table.columns)
    return f"{_insert_prefix(table)} SELECT * FROM unnest({arrays})"


def _as_arrays(rows: Sequence[Row]) -> Sequence[list[Any]]:
    return [list(values) for values in zip(*rows, strict=True)]


@cache
def _on_conflict(table: Table) -> str:
    primary_key = ", ".join(column.name for column in table.primary_key.columns)
    others = [column.name for column in table.columns if not column.primary_key]
    changes = ", ".join(f"{name} = excluded.{name}" for name in others)
    return f"ON CONFLICT ({primary_key}) DO UPDATE SET {changes}"
