"""The rollup `analysis_trend`: per project, the number of analyses on each of the newest days, and the total."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from pydantic_core import from_json, to_json
from sqlalchemy import BigInteger, Column, Table, Text

from event_stream.events.event import Event
from event_stream.events.event_types import AnalysisCreated
from projections.database.columns import KeyText, Row, metadata
from projections.folding import row_checksum
from projections.folding.projection import Key, project_key
from projections.folding.rollup import Rollup

DAY_US = 86_400_000_000
# Reads show 30 days. The other two allow for clocks that differ around midnight: one day for an API process that is
# still on the day before, and one for a producer that is already on the next day.
DAYS_KEPT = 32


class AnalysisTrend(NamedTuple):
    """A row: counts by day, in days since 1970 UTC, for the newest DAYS_KEPT days only."""

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
    """Return the row after the event.

    The newest day decides which days are kept, so the order of events does not matter.
    """
    day = event.time_us // DAY_US
    by_day = {**row.by_day, day: row.by_day.get(day, 0) + 1}
    if len(by_day) > len(row.by_day):  # a new day may be the newest, or too old
        oldest = max(by_day) - DAYS_KEPT + 1
        by_day = {kept: count for kept, count in by_day.items() if kept >= oldest}
    return AnalysisTrend(row.tenant_id, row.project_id, row.total + 1, by_day)


def by_day_from_json(text: str) -> dict[int, int]:
    """Return the counts in a row's column `by_day`, ascending by day."""
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
