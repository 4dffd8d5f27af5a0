"""The table `event_log`: every accepted event once. The primary key detects repeated events."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, LargeBinary, Table

from event_stream.events.event import Event, Identity
from event_stream.events.json_equality import equal_json
from projections.database.bulk import inserting_rows
from projections.database.columns import KeyText, Row, metadata
from projections.database.key_queries import find_rows_query
from projections.database.pipeline import Query, fetch

table = Table(
    "event_log",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("event_id", KeyText, primary_key=True),
    Column("partition", Integer, nullable=False),
    Column("number", BigInteger, nullable=False),  # 1, 2, 3, … per partition, without gaps
    Column("type", KeyText, nullable=False),
    Column("project_id", KeyText),
    Column("time_us", BigInteger, nullable=False),
    Column("body", LargeBinary, nullable=False),  # as received, so that a rebuild decodes the same bytes
)
Index("event_log_by_number", table.c.partition, table.c.number, unique=True)


@dataclass(frozen=True, slots=True)
class Classified:
    """The events of a batch in stream order: new ones, duplicates, and the indexes of conflicts in the batch."""

    new: list[Event]
    duplicates: list[Event]
    conflicts: list[int]


def classify(batch: list[Event], identities: Sequence[Identity], found: Sequence[Row]) -> Classified:
    """Return which events of a batch are new, duplicates or conflicts.

    `identities` are those of the batch, and `found` the rows of `bodies_query` for them. The first event of an
    identity wins: equal content is a duplicate, other content a conflict. The caller holds the partition's claim,
    and a tenant has one partition, so no other transaction can add events with these identities.
    """
    if not found and len(set(identities)) == len(batch):
        return Classified(batch, [], [])  # the usual case
    return _compare(batch, identities, _by_identity(found))


def appending(
    connection: Connection, partition: int, events: Sequence[Event], last_number: int
) -> AbstractContextManager[None]:
    """Append new events, numbered from `last_number` + 1, while the block runs (see `bulk.inserting_rows`)."""
    rows = [
        (tenant_id, event_id, partition, number, type_, project_id, time_us, body)
        for number, (tenant_id, event_id, type_, _, time_us, project_id, _, body) in enumerate(events, last_number + 1)
    ]
    return inserting_rows(connection, table, rows)


def find_bodies(connection: Connection, identities: Sequence[Identity]) -> dict[Identity, bytes]:
    """Return the bodies of the events that are in the log, by identity."""
    (found,) = fetch(connection, bodies_query(connection, identities))
    return _by_identity(found)


def bodies_query(connection: Connection, identities: Sequence[Identity]) -> Query | None:
    """Return the query for the events of these identities; its rows are (tenant, event id, body)."""
    return find_rows_query(connection, table, [table.c.tenant_id, table.c.event_id, table.c.body], identities)


def _compare(batch: list[Event], identities: Sequence[Identity], bodies: dict[Identity, bytes]) -> Classified:
    classified = Classified([], [], [])
    for index, (event, identity) in enumerate(zip(batch, identities, strict=True)):
        body = bodies.get(identity)
        if body is None:
            bodies[identity] = event.body
            classified.new.append(event)
        elif equal_json(body, event.body):
            classified.duplicates.append(event)
        else:
            classified.conflicts.append(index)
    return classified


def _by_identity(found: Sequence[Row]) -> dict[Identity, bytes]:
    return {(tenant_id, event_id): body for tenant_id, event_id, body in found}
