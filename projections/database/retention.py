"""Keep only the newest rows of each group of a table."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Delete, Table, bindparam, delete, select, true, tuple_

from projections.database.columns import Row
from projections.database.key_queries import bind_keys, key_rows
from projections.database.pipeline import execute


def keep_newest(
    connection: Connection,
    table: Table,
    group: tuple[Column[Any], ...],
    order: tuple[Column[Any], ...],
    keep: int,
    groups: Sequence[Row],
) -> None:
    """Delete all rows of the given groups except the last `keep` of each in `order`.

    The table's primary key is the columns of `group`, then those of `order`.
    """
    if not groups:
        return
    if connection.dialect.name == "postgresql":
        execute(connection, _delete_in_all_groups(table, group, order, keep), bind_keys("postgresql", groups))
        return
    names = [f"k{index}" for index in range(len(group))]
    keys = [dict(zip(names, each, strict=True)) for each in groups]
    connection.execute(_delete_in_one_group(table, group, order, keep), keys)


@cache
def _delete_in_one_group(
    table: Table, group: tuple[Column[Any], ...], order: tuple[Column[Any], ...], keep: int
) -> Delete:
    of_group = [column == bindparam(f"k{index}") for index, column in enumerate(group)]
    newest = select(*order).where(*of_group).order_by(*(column.desc() for column in order))
    oldest_kept = newest.offset(keep - 1).limit(1).scalar_subquery()
    return delete(table).where(*of_group, tuple_(*order) < oldest_kept)


@cache
def _delete_in_all_groups(
    table: Table, group: tuple[Column[Any], ...], order: tuple[Column[Any], ...], keep: int
) -> Delete:
    keys, candidates = key_rows("postgresql", group), table.alias("other")
    ordered = [candidates.c[column.name] for column in order]
    of_group = [candidates.c[column.name] == key for column, key in zip(group, keys.c, strict=True)]
    newest = select(*ordered).where(*of_group).order_by(*(column.desc() for column in ordered))
    oldest_kept = newest.offset(keep - 1).limit(1).lateral()
    # Without MATERIALIZED, the planner may look up a group's oldest kept row once for each of its rows.
    found = select(*keys.c, *oldest_kept.c).select_from(keys).join(oldest_kept, true())
    kept = found.cte("oldest_kept").prefix_with("MATERIALIZED")
    in_group = [column == key for column, key in zip(group, kept.c, strict=False)]
    return delete(table).where(*in_group, tuple_(*order) < tuple_(*list(kept.c)[len(group) :]))
