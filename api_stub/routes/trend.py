"""The daily trend, which several reads show."""

from collections.abc import Iterable
from datetime import date
from functools import lru_cache
from typing import Any

from pydantic import Field

from api_stub.responses import ResponseModel
from projections.read_models.analysis_trend import DAY_US

WINDOW_DAYS = 30
_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()


class DayCount(ResponseModel):
    """Analyses created on one UTC day."""

    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    count: int = Field(ge=1)


def render_trend(by_day: Iterable[tuple[int, int]], now_us: int) -> list[dict[str, Any]]:
    """Return the members of DayCount for each day with analyses in the last 30 UTC days, today included.

    `by_day` has (days since 1970 UTC, number of analyses), ascending. Dicts cost less than models.
    """
    today = now_us // DAY_US
    days = range(today - WINDOW_DAYS + 1, today + 1)
    return [{"date": _date(day), "count": count} for day, count in by_day if day in days]


@lru_cache(maxsize=256)
def _date(day: int) -> str:
    return date.fromordinal(_EPOCH_ORDINAL + day).isoformat()
