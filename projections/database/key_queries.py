"""Find rows by many keys with one statement, on PostgreSQL and SQLite."""

import json
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    select,
)
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
    """Return the parameters for `key_rows`."""
    if dialect_name != "postgresql":
        return {"keys": json.dumps(keys)}
    parameters: dict[str, Any] = {}
    for index, values in enumerate(zip(*keys, strict=True)):
        if isinstance(values[0], str):
            parameters[f"k{index}"], parameters[f"k{index}_separator"] = _join(values)
        else:
            parameters[f"k{index}"] = list(values)
    return parameters


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
    if not isinstance(column.type, Text):
        return bindparam(name, type_=ARRAY(column.type))
    parts = func.string_to_array(bindparam(name, type_=Text), bindparam(f"{name}_separator", type_=Text))
    return func.trim_array(parts, literal_column("1"))  # without the empty part that `_join` puts last


def _join(values: Sequence[str]) -> tuple[str, str]:
    """Return one text of all values, each before a separator, and the separator, which no value holds."""
    separator = _SEPARATOR
    for number in count():
        joined = separator.join((*values, ""))
        if joined.count(separator) == len(values):
            break
        # It starts with a character that it does not hold again, so it cannot begin inside a value and end after it.
        separator = f"{_SEPARATOR}{number}"
    return joined, separator
