"""Analyses per day: one hot row a project, with a count for each of the newest days and the total ever."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic_core import from_json
from sqlalchemy import BigInteger, Column, Table, Text

from event_stream.types import AnalysisCreated, Event
from projections.projection import Key, Rollup
from projections.store import KeyText, Row, metadata

DAY_US = 86_400_000_000
# The 30 that a reader sees, one for a reader whose day has not begun yet, one for a producer ahead of it.
DAYS_KEPT = 32


@dataclass(frozen=True, slots=True)
class AnalysisTrend:
    """Counts by day, a day being a number of days since 1970 UTC; only those near the newest day are kept."""

    tenant_id: str
    project_id: str
    total: int = 0
    by_day: Mapping[int, int] = field(default_factory=dict)


table = Table(
    "analysis_trend",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("project_id", KeyText, primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("by_day", Text, nullable=False),
    postgresql_with={"fillfactor": 70},
)


def keys(event: Event) -> tuple[Key, ...]:
    """Only analyses."""
    match event.data:
        case AnalysisCreated() if event.project_id:
            return ((event.tenant_id, event.project_id),)
        case _:
            return ()


def fold(row: AnalysisTrend, event: Event) -> AnalysisTrend:
    """Return the row after the event, whatever the order in which events come.

    What is kept hangs on the newest day seen, never on a clock; so a day that is kept in the end was never dropped.
    """
    day = event.time_us // DAY_US
    oldest = max(day, *row.by_day) - DAYS_KEPT + 1 if row.by_day else day - DAYS_KEPT + 1
    by_day = {kept: count for kept, count in row.by_day.items() if kept >= oldest}
    if day >= oldest:
        by_day[day] = by_day.get(day, 0) + 1
    return AnalysisTrend(row.tenant_id, row.project_id, row.total + 1, by_day)


def by_day_from_json(text: str) -> dict[int, int]:
    """Return the counts that a row's `by_day` column holds, ascending by day."""
    return dict(from_json(text))


def _new(key: Key) -> AnalysisTrend:
    tenant_id, project_id = key
    return AnalysisTrend(tenant_id, project_id)


def _load(columns: Row) -> AnalysisTrend:
    tenant_id, project_id, total, by_day = columns
    return AnalysisTrend(tenant_id, project_id, total, by_day_from_json(by_day))


def _dump(row: AnalysisTrend) -> Row:
    return (row.tenant_id, row.project_id, row.total, json.dumps(sorted(row.by_day.items()), separators=(",", ":")))


projection = Rollup("analysis_trend", version=1, table=table, keys=keys, new=_new, fold=fold, load=_load, dump=_dump)
