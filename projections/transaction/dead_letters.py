"""The table `dead_letter`: entries that can never be applied, each with its reason.

A dead letter is open until its event is applied, an operator discards it, or its bytes fail for another reason. A
closed one has no bytes. `dead_letter_limits` bounds the open ones of each bucket and reason.
"""

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    bindparam,
    func,
    literal_column,
    select,
    update,
)

from event_stream.errors import Reason
from event_stream.events.envelope import claimed_identity
from event_stream.events.event import Identity
from event_stream.events.json_body import BODY_BYTES_MAX, too_large
from event_stream.events.json_equality import equal_json
from event_stream.streams.entries import Position
from projections.database.bulk import dialect_insert
from projections.database.columns import KeyText, metadata, to_signed
from projections.database.key_queries import bind_keys, find_rows, key_rows
from projections.database.pipeline import Query, execute, fetch
from projections.transaction.dead_letter_counts import Group

OPEN = "open"
APPLIED = "applied"
DISCARDED = "discarded"
REPLACED = "replaced"
# No other reason applies to a body that is too large.
_REPLACE_NOTHING = (Reason.WRONG_PARTITION, Reason.TOO_LARGE)
TIME_US_MAX = 2**63 - 1  # a producer may choose an entry id with a larger time

table = Table(
    "dead_letter",
    metadata,
    Column("id", KeyText, primary_key=True),
    Column("state", KeyText, nullable=False),
    Column("reason", KeyText, nullable=False),
    Column("bucket", KeyText, nullable=False),
    Column("detail", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("position_ms", BigInteger, nullable=False),
    Column("position_seq", BigInteger, nullable=False),
    Column("tenant_id", KeyText),
    Column("event_id", KeyText),
    Column("times_seen", BigInteger, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Column("was_open", Boolean, nullable=False),  # before it was last seen
    Column("closed_us", BigInteger),
    Column("body_length", BigInteger, nullable=False),
    Column("body_sha256", KeyText, nullable=False),
    Column("body", LargeBinary),
    # A flood replaces its own rows, and their space is reused only after a vacuum.
    postgresql_with={"autovacuum_vacuum_scale_factor": 0.02},
)
# Literal: with a parameter, neither database uses a partial index in a plan that it keeps.
is_open = table.c.state == literal_column(f"'{OPEN}'")
_IS_OPEN: dict[str, Any] = {"postgresql_where": is_open, "sqlite_where": is_open}
_is_closed = table.c.closed_us.is_not(None)
# Conflicts are left out: they can never be applied, and one identity may have any number of them.
is_closable = is_open & (table.c.reason != Reason.ID_CONFLICT.value)
Index("dead_letter_by_event", table.c.tenant_id, table.c.event_id, **_IS_OPEN)
# A hash of 4 bytes in place of 64 characters.
Index("dead_letter_by_body", table.c.body_sha256, postgresql_using="hash", **_IS_OPEN)
Index("dead_letter_by_group", table.c.bucket, table.c.reason, table.c.last_seen_us, table.c.id, **_IS_OPEN)
Index("dead_letter_by_last_seen", table.c.last_seen_us)
Index("dead_letter_by_closed", table.c.closed_us, postgresql_where=_is_closed, sqlite_where=_is_closed)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An entry that can never be applied, and why."""

    partition: int
    position: Position
    body: bytes
    reason: Reason
    detail: str
    whole: "WholeBody | None" = None
    """Set if `body` is the beginning only."""

    @classmethod
    def too_large(cls, partition: int, position: Position, beginning: bytes, chunks: Iterable[bytes]) -> "DeadLetter":
        """Return the dead letter of an entry that is too large. Only the beginning of its body is kept."""
        whole = WholeBody.of(Reason.TOO_LARGE, chunks)
        error = too_large(whole.length)
        return cls(partition, position, beginning[:BODY_BYTES_MAX], error.reason, error.detail, whole)

    @property
    def identity(self) -> Identity | None:
        """The identity of its event; None if the bytes have no valid tenant id and event id."""
        tenant_id, event_id = (None, None) if self.whole else claimed_identity(self.body)
        return (tenant_id, event_id) if tenant_id and event_id else None

    @property
    def id(self) -> str:
        """The hash of its reason and bytes: docs/reference/events.md#dead-letters."""
        return self.hashes.id

    @property
    def hashes(self) -> "WholeBody":
        """The length and hashes of all its bytes, of which `body` may be the beginning."""
        return self.whole or WholeBody.of(self.reason, [self.body])


class WholeBody(NamedTuple):
    """The length and hash of all bytes of a dead letter, and the hash of its reason and these bytes."""

    length: int
    sha256: str
    id: str

    @classmethod
    def of(cls, reason: Reason, chunks: Iterable[bytes]) -> "WholeBody":
        """Return them for bytes that come in chunks."""
        length, body, reason_and_body = 0, sha256(), sha256(reason.encode() + b"\0")
        for chunk in chunks:
            length += len(chunk)
            body.update(chunk)
            reason_and_body.update(chunk)
        return cls(length, body.hexdigest(), reason_and_body.hexdigest())


def park(connection: Connection, parked: Sequence[DeadLetter]) -> Counter[Group]:
    """Store dead letters. A known one counts as seen once more, and is open again; it keeps its first position.

    Returns how many are newly open in each group; the caller passes this to `dead_letter_limits`.
    """
    if not parked:
        return Counter()
    by_id = [(each.id, each) for each in parked]
    seen = Counter(id_ for id_, _ in by_id)
    last = dict(by_id)
    first = dict(reversed(by_id))
    statement = dialect_insert(connection, table)
    statement = statement.on_conflict_do_update(
        index_elements=[table.c.id],
        set_={
            "state": OPEN,
            "was_open": is_open,
            "closed_us": None,
            "body": func.coalesce(table.c.body, statement.excluded.body),
            "times_seen": table.c.times_seen + statement.excluded.times_seen,
            # Replay follows the first positions, so that the event that came first wins.
            **{name: statement.excluded[name] for name in ("detail", "last_seen_us")},
        },
    )
    connection.execute(statement, [_columns(first[id_], last[id_], seen[id_]) for id_ in sorted(seen)])
    columns = [table.c.bucket, table.c.reason, table.c.was_open]
    stored = find_rows(connection, table, columns, [(id_,) for id_ in sorted(seen)])
    return Counter(Group(bucket, reason) for bucket, reason, was_open in stored if not was_open)


def close_applied(connection: Connection, applied: Mapping[Identity, bytes]) -> Counter[Group]:
    """Close the open dead letters whose event is in `applied`: bodies of events in the log, by identity.

    Returns how many were closed in each group.
    """
    if not applied:
        return Counter()
    name = connection.dialect.name
    (closable,) = fetch(connection, Query(_closable_statement(name), bind_keys(name, sorted(applied))))
    ids = [
        letter_id for letter_id, tenant_id, event_id, body in closable if equal_json(body, applied[tenant_id, event_id])
    ]
    return close(connection, ids, APPLIED)


def close_replaced(connection: Connection, parked: Sequence[DeadLetter]) -> Counter[Group]:
    """Close the open dead letters with the bytes of `parked`, but another reason: the newest reason is the valid one.

    So an event that loses its identity on replay is open once, as a conflict. A dead letter in a wrong partition closes
    no other, since its reason says nothing about the event. Returns how many were closed in each group.
    """
    reasons = {each.hashes.sha256: each.reason for each in parked if each.reason not in _REPLACE_NOTHING}
    if not reasons:
        return Counter()
    name = connection.dialect.name
    keys = [(body_sha256,) for body_sha256 in sorted(reasons)]
    (found,) = fetch(connection, Query(_same_body_statement(name), bind_keys(name, keys)))
    ids = [letter_id for letter_id, body_sha256, reason in found if reason != reasons[body_sha256]]
    return close(connection, ids, REPLACED)


def close(connection: Connection, ids: Collection[str], state: str) -> Counter[Group]:
    """Close those of these dead letters that are open, without their bytes; returns how many were, by group."""
    if not ids:
        return Counter()
    name = connection.dialect.name
    keys = bind_keys(name, [(letter_id,) for letter_id in sorted(ids)])
    (locked,) = fetch(connection, Query(_lock_open_statement(name), keys))
    values = {"closed_state": state, "now_us": time.time_ns() // 1000}
    execute(connection, _close_statement(name), keys | values)
    return Counter(Group(bucket, reason) for bucket, reason in locked)


@cache
def _closable_statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [table.c.tenant_id, table.c.event_id])
    of_event = (table.c.tenant_id == keys.c[0]) & (table.c.event_id == keys.c[1]) & is_closable
    statement = select(table.c.id, table.c.tenant_id, table.c.event_id, table.c.body).select_from(keys)
    return statement.join(table, of_event)


@cache
def _same_body_statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [table.c.body_sha256])
    statement = select(table.c.id, table.c.body_sha256, table.c.reason).select_from(keys)
    return statement.join(table, (table.c.body_sha256 == keys.c[0]) & is_open)


@cache
def _lock_open_statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [table.c.id])
    statement = select(table.c.bucket, table.c.reason).select_from(keys).join(table, table.c.id == keys.c[0])
    # Ordered, so that two transactions that lock the same rows do not deadlock.
    return statement.where(is_open).order_by(table.c.id).with_for_update(of=table)


@cache
def _close_statement(dialect_name: str) -> Any:
    keys = key_rows(dialect_name, [table.c.id])
    of_keys = table.c.id.in_(select(keys.c[0]))
    closed: dict[str, Any] = {"state": bindparam("closed_state"), "closed_us": bindparam("now_us"), "body": None}
    return update(table).where(of_keys, is_open).values(closed)


def _columns(first: DeadLetter, last: DeadLetter, times_seen: int) -> dict[str, object]:
    # A body that is too large names no identity, even if the beginning that is left of it would.
    tenant_id, event_id = (None, None) if last.whole else claimed_identity(last.body)
    hashes = last.hashes
    return {
        "id": hashes.id,
        "state": OPEN,
        "reason": last.reason.value,
        # `#` is not allowed in a tenant's id.
        "bucket": tenant_id or f"#{first.partition}",
        "detail": last.detail,
        "partition": first.partition,
        "position_ms": to_signed(first.position.ms),
        "position_seq": to_signed(first.position.seq),
        "tenant_id": tenant_id,
        "event_id": event_id,
        "times_seen": times_seen,
        "first_seen_us": min(first.position.ms * 1000, TIME_US_MAX),
        "last_seen_us": min(last.position.ms * 1000, TIME_US_MAX),
        "was_open": False,
        "body_length": hashes.length,
        "body_sha256": hashes.sha256,
        "body": last.body[:BODY_BYTES_MAX],
    }
