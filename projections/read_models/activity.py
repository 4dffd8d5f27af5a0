"""The feed `activity`: the newest watchdog evaluations of each project, each stored as the JSON that reads return."""

from pydantic import TypeAdapter
from sqlalchemy import BigInteger, Column, Table, Text

from event_stream.events.event import Event
from event_stream.events.event_types import WatchdogEvaluated
from event_stream.events.rfc3339 import format_time
from projections.database.columns import KeyText, Row, metadata
from projections.folding.feed import Feed
from projections.folding.projection import project_key

ENTRIES_KEPT = 100
_SERIALIZER = TypeAdapter(WatchdogEvaluated).serializer

table = Table(
    "activity",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("project_id", KeyText, primary_key=True),
    Column("time_us", BigInteger, primary_key=True),
    Column("event_id", KeyText, primary_key=True),
    Column("evaluation", Text, nullable=False),
)


def entry(event: Event) -> Row:
    """Return the row of an evaluation: its key and its JSON object (docs/reference/api.md#activity)."""
    members = _SERIALIZER.to_json(event.data, by_alias=True).decode()
    rendered = f'{{"timestamp":"{format_time(event.time_us)}",{members[1:]}'
    return (*project_key(event), event.time_us, event.id, rendered)


projection = Feed(
    "activity",
    version=1,
    table=table,
    reads=frozenset({WatchdogEvaluated}),
    group=(table.c.tenant_id, table.c.project_id),
    order=(table.c.time_us, table.c.event_id),
    keep=ENTRIES_KEPT,
    entry=entry,
)
