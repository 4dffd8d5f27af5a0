"""Analyses per day: one hot row a project, with a count for each of the newest days and the total ever."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydantic_core import from_json, to_json
from sqlalchemy import BigInteger, Column, Table, Text

from event_stream.event_types import AnalysisCreated, Event
from projections.database.columns import KeyText, Row, metadata
from projections.folding import row_checksum
from projections.folding.projection import Key, Rollup, project_key

DAY_US = 86_400_000_000
# The 30 that a reader sees, one for a reader whose day has not begun yet, one for a producer ahead of it.
DAYS_KEPT = 32


class AnalysisTrend(NamedTuple):
    """Counts by day, a day being a number of days since 1970 UTC; only those near the newest day are kept."""

    tenant_id: str
    project_id: str
    total: int = 0
    by_day: Mapping[int, int] = MappingProxyType({})


table = Table(
    "analysis_trend",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("project_id", KeyText, primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("by_day", Text, nullable=False),
    *row_checksum.columns(),
    postgresql_with={"fillfactor": 70},
)


def fold(row: AnalysisTrend, event: Event) -> AnalysisTrend:
    """Return the row after the event, whatever the order in which events come.

    What is kept hangs on the newest day seen, never on a clock; so a day that is kept in the end was never dropped.
    """
    day = event.time_us // DAY_US
    by_day = {**row.by_day, day: row.by_day.get(day, 0) + 1}
    if len(by_day) > len(row.by_day):  # a day that was not there before: the newest may have moved, or it is too old
        oldest = max(by_day) - DAYS_KEPT + 1
        by_day = {kept: count for kept, count in by_day.items() if kept >= oldest}
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
    return (row.tenant_id, row.project_id, row.total, to_json(sorted(row.by_day.items())).decode())


projection = Rollup(
    "analysis_trend",
    version=1,
    table=table,
    reads=frozenset({AnalysisCreated}),
    key=project_key,
    new=_new,
    fold=fold,
    load=_load,
    dump=_dump,
)
