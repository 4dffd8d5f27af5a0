"""Find rows by many keys with one statement, on PostgreSQL and SQLite."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, FromClause, Select, Table, Text, bindparam, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from projections.database.columns import Row
from projections.database.pipeline import Query, fetch

_SEPARATOR = "\x1f"


def key_rows(dialect_name: str, columns: Sequence[Column[Any]]) -> FromClause:
    """Return bound keys as a table `k` with one column for each of `columns`, in their order.

    Execute with the parameters of `bind_keys`. The statement's text is the same for any number of keys.
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
    """Return the parameters for `key_rows`; raises ValueError if a key's text holds U+001F."""
    if dialect_name == "postgresql":
        return {f"k{index}": _bind_array(values) for index, values in enumerate(zip(*keys, strict=True))}
    return {"keys": json.dumps(keys)}


def find_rows(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], keys: Sequence[Row]
) -> Sequence[Row]:
    """Return `columns` of the rows of `table` whose primary key is among `keys`, in no order."""
    (found,) = fetch(connection, find_rows_query(connection, table, columns, keys))
    return found


def find_rows_query(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], keys: Sequence[Row]
) -> Query | None:
    """Return the query of `find_rows`; None if there are no keys."""
    if not keys:
        return None
    name = connection.dialect.name
    return Query(find_rows_statement(name, table, tuple(columns)), bind_keys(name, keys))


@cache
def find_rows_statement(dialect_name: str, table: Table, columns: tuple[Column[Any], ...]) -> Select[Any]:
    """Return the statement of `find_rows`, for the parameters of `bind_keys`."""
    primary_key = list(table.primary_key.columns)
    keys = key_rows(dialect_name, primary_key)
    first, *conditions = [column == key for column, key in zip(primary_key, keys.c, strict=True)]
    matches: ColumnElement[bool] = first
    for condition in conditions:
        matches &= condition
    return select(*columns).select_from(keys).join(table, matches)


def _key_array(name: str, column: Column[Any]) -> ColumnElement[Any]:
    """Return a bound array. Texts are sent as one text that the server splits, at a tenth of the cost of an array."""
    if isinstance(column.type, Text):
        return func.string_to_array(bindparam(name, type_=Text), _SEPARATOR)
    return bindparam(name, type_=ARRAY(column.type))


def _bind_array(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], str):
        return list(values)
    joined = _SEPARATOR.join(values)
    if joined.count(_SEPARATOR) != len(values) - 1:
        raise ValueError("a key holds U+001F; keys must be free of control characters")
    return joined
