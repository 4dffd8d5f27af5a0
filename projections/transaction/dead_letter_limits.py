"""The limit of open dead letters in each bucket and reason: the newest are kept, and the others are only counted.

docs/decisions/0052-bound-dead-letters-per-tenant-and-reason.md
"""

from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select

from projections.database.key_queries import bind_keys, key_rows
from projections.database.pipeline import Query, execute, fetch
from projections.transaction import dead_letter_counts
from projections.transaction.dead_letter_counts import NEVER_DROPPED, DeadLettersFullError, Group
from projections.transaction.dead_letters import is_open, table

KEPT_MAX = 10_000
DROPPED_AT_ONCE_MAX = 10_000  # more than a batch can park, so that a group above its limit shrinks
# A dead letter that another transaction has locked is skipped, so that the two cannot wait for each other.
_OLDEST = (
    select(table.c.id)
    .where(is_open, table.c.bucket == bindparam("of_bucket"), table.c.reason == bindparam("of_reason"))
    .order_by(table.c.last_seen_us, table.c.id)
    .limit(bindparam("number"))
    .with_for_update(skip_locked=True)
)


def count_and_limit(connection: Connection, changed: Mapping[Group, int], kept_max: int) -> None:
    """Add the changes to the counts of open dead letters; in groups above the limit, keep only the newest.

    The others are deleted and stay counted. Raises DeadLettersFullError if a group may not lose dead letters.
    """
    dead_letter_counts.add(connection, changed, {})
    grown = [group for group, number in changed.items() if number > 0]
    kept = dead_letter_counts.read_kept(connection, grown)
    dropped: Counter[Group] = Counter()
    for group, number in sorted(kept.items()):
        if number > kept_max and group.reason in NEVER_DROPPED:
            raise DeadLettersFullError(
                f"{number:,} dead letters of {group.bucket} with the reason {group.reason} would be open, and"
                f" PROJECTOR_DEAD_LETTERS_MAX is {kept_max:,}; raise the limit, or discard them (a replay is appended"
                " after the entries that wait)"
            )
        if number > kept_max:
            dropped[group] = _delete_oldest(connection, group, min(number - kept_max, DROPPED_AT_ONCE_MAX))
    dead_letter_counts.add(connection, {group: -number for group, number in dropped.items()}, dropped)


def _delete_oldest(connection: Connection, group: Group, number: int) -> int:
    """Delete the open dead letters of a group that were last seen first; returns how many."""
    name = connection.dialect.name
    of_group = {"of_bucket": group.bucket, "of_reason": group.reason, "number": number}
    (oldest,) = fetch(connection, Query(_OLDEST, of_group))
    if oldest:
        execute(connection, _delete_statement(name), bind_keys(name, [tuple(row) for row in oldest]))
    return len(oldest)


@cache
def _delete_statement(dialect_name: str) -> Any:
    keys = key_rows(dialect_name, [table.c.id])
    return delete(table).where(table.c.id.in_(select(keys.c[0])))
