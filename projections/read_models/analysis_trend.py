"""The rollup `analysis_trend`: per project, the number of analyses by day, by month and severity, and in total."""

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, TypeVar, get_args

from pydantic_core import from_json, to_json
from sqlalchemy import BigInteger, Column, Table, Text

from event_stream.events.event import Event
from event_stream.events.event_types import AnalysisCreated, Severity
from projections.database.columns import KeyText, Row, metadata
from projections.folding import row_checksum
from projections.folding.projection import Key, project_key
from projections.folding.rollup import Rollup

DAY_US = 86_400_000_000
# Reads show 30 days. The other two allow for clocks that differ around midnight: one day for an API process that is
# still on the day before, and one for a producer that is already on the next day.
DAYS_KEPT = 32
# Reads show the present month. The other two allow for clocks that differ, as above.
MONTHS_KEPT = 3
SEVERITIES: tuple[str, ...] = get_args(Severity)
MonthCounts: TypeAlias = tuple[int, ...]
"""The analyses of a month: all of them, then those of each of SEVERITIES."""
NO_ANALYSES: MonthCounts = (0,) * (1 + len(SEVERITIES))
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()

T = TypeVar("T")


class AnalysisTrend(NamedTuple):
    """A row: counts for the newest DAYS_KEPT days, by days since 1970 UTC, and for the newest MONTHS_KEPT months."""

    tenant_id: str
    project_id: str
    total: int = 0
    by_day: Mapping[int, int] = MappingProxyType({})
    by_month: Mapping[int, MonthCounts] = MappingProxyType({})


table = Table(
    "analysis_trend",
    metadata,
    Column("tenant_id", KeyText, primary_key=True),
    Column("project_id", KeyText, primary_key=True),
    Column("total", BigInteger, nullable=False),
    Column("by_day", Text, nullable=False),
    Column("by_month", Text, nullable=False),
    *row_checksum.columns(),
    postgresql_with={"fillfactor": 70},
)


def fold(row: AnalysisTrend, event: Event) -> AnalysisTrend:
    """Return the row after the event.

    The newest day and month decide which ones are kept, so the order of events does not matter.
    """
    day = event.time_us // DAY_US
    month = month_of(day)
    by_day = _with(row.by_day, day, row.by_day.get(day, 0) + 1, DAYS_KEPT)
    by_month = _with(row.by_month, month, _counted(row.by_month.get(month, NO_ANALYSES), event), MONTHS_KEPT)
    return AnalysisTrend(row.tenant_id, row.project_id, row.total + 1, by_day, by_month)


@lru_cache(maxsize=4096)
def month_of(day: int) -> int:
    """Return the UTC month of a day since 1970 as year * 12 + month - 1."""
    its_date = date.fromordinal(_EPOCH_ORDINAL + day)
    return its_date.year * 12 + its_date.month - 1


def by_day_from_json(text: str) -> dict[int, int]:
    """Return the counts in a row's column `by_day`, ascending by day."""
    return dict(from_json(text))


def by_month_from_json(text: str) -> dict[int, MonthCounts]:
    """Return the counts in a row's column `by_month`, ascending by month."""
    return {month: tuple(counts) for month, counts in from_json(text)}


def _counted(counts: MonthCounts, event: Event) -> MonthCounts:
    """Return the counts of a month after one more analysis."""
    assert isinstance(event.data, AnalysisCreated)
    total, *by_severity = counts
    if event.data.severity is not None:
        by_severity[SEVERITIES.index(event.data.severity)] += 1
    return (total + 1, *by_severity)


def _with(counts: Mapping[int, T], number: int, value: T, kept: int) -> Mapping[int, T]:
    """Return the counts with the value of one day or month, without those that are no longer among the newest."""
    after = {**counts, number: value}
    if len(after) > len(counts):  # the new one may be the newest, or too old
        oldest = max(after) - kept + 1
        after = {number: value for number, value in after.items() if number >= oldest}
    return after


def _new(key: Key) -> AnalysisTrend:
    tenant_id, project_id = key
    return AnalysisTrend(tenant_id, project_id)


def _load(columns: Row) -> AnalysisTrend:
    tenant_id, project_id, total, by_day, by_month = columns
    return AnalysisTrend(tenant_id, project_id, total, by_day_from_json(by_day), by_month_from_json(by_month))


def _dump(row: AnalysisTrend) -> Row:
    by_day, by_month = (to_json(sorted(counts.items())).decode() for counts in (row.by_day, row.by_month))
    return (row.tenant_id, row.project_id, row.total, by_day, by_month)


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
