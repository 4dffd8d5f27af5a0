"""The table `dead_letter`: entries that can never be applied, each with its reason.

A dead letter is open until its event is applied, an operator discards it, or its bytes fail for another reason.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    Select,
    Table,
    Text,
    func,
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
from projections.database.pipeline import Query, fetch

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
    Column("detail", Text, nullable=False),
    Column("partition", Integer, nullable=False),
    Column("position_ms", BigInteger, nullable=False),
    Column("position_seq", BigInteger, nullable=False),
    Column("tenant_id", KeyText),
    Column("event_id", KeyText),
    Column("times_seen", BigInteger, nullable=False),
    Column("first_seen_us", BigInteger, nullable=False),
    Column("last_seen_us", BigInteger, nullable=False),
    Column("body_length", BigInteger, nullable=False),
    Column("body_sha256", KeyText, nullable=False),
    Column("body", LargeBinary, nullable=False),
)
is_open = table.c.state == OPEN
# Conflicts are left out: they can never be applied, and one identity may have any number of them.
is_closable = is_open & (table.c.reason != Reason.ID_CONFLICT.value)
Index("dead_letter_by_event", table.c.tenant_id, table.c.event_id, postgresql_where=is_open, sqlite_where=is_open)
ANY_OPEN = Query(select(table.c.id).where(is_open, table.c.event_id.is_not(None)).limit(1), {})
"""The query for one open dead letter that names an event."""


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


def park(connection: Connection, parked: Sequence[DeadLetter]) -> None:
    """Store dead letters. A known one counts as seen once more, and is open again; it keeps its first position."""
    if not parked:
        return
    by_id = [(each.id, each) for each in parked]
    seen = Counter(id_ for id_, _ in by_id)
    last = dict(by_id)
    first = dict(reversed(by_id))
    statement = dialect_insert(connection, table)
    statement = statement.on_conflict_do_update(
        index_elements=[table.c.id],
        set_={
            "state": OPEN,
            "times_seen": table.c.times_seen + statement.excluded.times_seen,
            # Replay follows the first positions, so that the event that came first wins.
            **{name: statement.excluded[name] for name in ("detail", "last_seen_us")},
        },
    )
    connection.execute(statement, [_columns(first[id_], last[id_], seen[id_]) for id_ in sorted(seen)])


def close_applied(connection: Connection, applied: Mapping[Identity, bytes]) -> None:
    """Close the open dead letters whose event is in `applied`: bodies of events in the log, by identity."""
    if not applied:
        return
    name = connection.dialect.name
    (closable,) = fetch(connection, Query(_closable_statement(name), bind_keys(name, sorted(applied))))
    closed = [
        letter_id for letter_id, tenant_id, event_id, body in closable if equal_json(body, applied[tenant_id, event_id])
    ]
    connection.execute(update(table).where(table.c.id.in_(closed)).values(state=APPLIED))


def close_replaced(connection: Connection, parked: Sequence[DeadLetter]) -> None:
    """Close the open dead letters with the bytes of `parked`, but another reason: the newest reason is the valid one.

    So an event that loses its identity on replay is open once, as a conflict. A dead letter in a wrong partition closes
    no other, since its reason says nothing about the event.
    """
    reasons = {each.body: each.reason for each in parked if each.reason not in _REPLACE_NOTHING}
    others = [
        (WholeBody.of(other, [body]).id,) for body, reason in reasons.items() for other in Reason if other != reason
    ]
    known = find_rows(connection, table, [table.c.id, table.c.state], others)
    if replaced := [dead_letter_id for dead_letter_id, state in known if state == OPEN]:
        connection.execute(update(table).where(table.c.id.in_(replaced)).values(state=REPLACED))


def count_open_by_reason(connection: Connection) -> dict[str, int]:
    """Return the number of open dead letters by reason, without the reasons that have none."""
    rows = connection.execute(
        select(table.c.reason, func.count()).where(is_open).group_by(table.c.reason).order_by(table.c.reason)
    )
    return {reason: count for reason, count in rows}  # noqa: C416 (rows are not pairs to the type checker)


@cache
def _closable_statement(dialect_name: str) -> Select[Any]:
    keys = key_rows(dialect_name, [table.c.tenant_id, table.c.event_id])
    of_event = (table.c.tenant_id == keys.c[0]) & (table.c.event_id == keys.c[1]) & is_closable
    statement = select(table.c.id, table.c.tenant_id, table.c.event_id, table.c.body).select_from(keys)
    return statement.join(table, of_event)


def _columns(first: DeadLetter, last: DeadLetter, times_seen: int) -> dict[str, object]:
    # A body that is too large names no identity, even if the beginning that is left of it would.
    tenant_id, event_id = (None, None) if last.whole else claimed_identity(last.body)
    hashes = last.hashes
    return {
        "id": hashes.id,
        "state": OPEN,
        "reason": last.reason.value,
        "detail": last.detail,
        "partition": first.partition,
        "position_ms": to_signed(first.position.ms),
        "position_seq": to_signed(first.position.seq),
        "tenant_id": tenant_id,
        "event_id": event_id,
        "times_seen": times_seen,
        "first_seen_us": min(first.position.ms * 1000, TIME_US_MAX),
        "last_seen_us": min(last.position.ms * 1000, TIME_US_MAX),
        "body_length": hashes.length,
        "body_sha256": hashes.sha256,
        "body": last.body[:BODY_BYTES_MAX],
    }
