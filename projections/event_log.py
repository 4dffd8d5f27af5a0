"""The event log: every accepted event, once, for ever. Its primary key is what makes a repeat harmless."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Integer, LargeBinary, Table

from event_stream.envelope import equal_json
from event_stream.stream import Position
from event_stream.types import Event, Identity
from projections.bulk import find, insert_rows
from projections.store import KeyText, metadata

table = Table(
    "event_log",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("event_id", KeyText, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),  # dense per partition, from 1
    Column("type", KeyText, nullable=False),
    Column("project_id", KeyText),
    Column("time_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # as received: a rebuild decodes what live decoded
)


class Received(NamedTuple):
    """A valid event and the position of the entry that brought it."""

    position: Position
    event: Event


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a batch's events, each list in the order of the stream."""

    new: list[Event]
    duplicates: list[Event]
    conflicts: list[Received]


def accept(connection: Connection, partition: int, batch: Sequence[Received], last_number: int) -> Accepted:
    """Append the events whose identity is new to the log, numbered from `last_number` + 1.

    The caller holds the partition's claim, and a tenant is always on one partition; so nobody else decides about these
    identities meanwhile. The first in the stream wins: equal content is a duplicate, other content a conflict.
    """
    accepted = _told_apart(batch, find_bodies(connection, [received.event.identity for received in batch]))
    insert_rows(
        connection,
        table,
        [
            (event.tenant_id, event.id, partition, number, event.type, event.project_id, event.time_us, event.body)
            for number, event in enumerate(accepted.new, start=last_number + 1)
        ],
    )
    return accepted


def find_bodies(connection: Connection, identities: Sequence[Identity]) -> dict[Identity, bytes]:
    """Return the bodies of the events that are in the log, by identity."""
    found = find(connection, table, [table.c.tenant_id, table.c.event_id, table.c.body], identities)
    return {(tenant_id, event_id): body for tenant_id, event_id, body in found}


def _told_apart(batch: Sequence[Received], known: dict[Identity, bytes]) -> Accepted:
    accepted = Accepted([], [], [])
    for received in batch:
        event = received.event
        identity = event.identity
        body = known.get(identity)
        if body is None:
            known[identity] = event.body
            accepted.new.append(event)
        elif equal_json(body, event.body):
            accepted.duplicates.append(event)
        else:
            accepted.conflicts.append(received)
    return accepted
