"""The bodies of the successful answers (docs/reference/api.md#stats, docs/reference/api.md#activity)."""

from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from event_stream.types import Severity, SuppressedReason

T = TypeVar("T")


class _Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Success(_Answer, Generic[T]):
    """The envelope of every success."""

    success: Literal[True] = True
    data: T


class DayCount(_Answer):
    """Analyses created on one UTC day."""

    date: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    count: int = Field(ge=1)


class Stats(_Answer):
    """A project's rollup counts and its 30-day trend."""

    analysis_count: int = Field(ge=0, description="Analyses created in the last 30 UTC days, today included.")
    log_source_count: int = Field(ge=0)
    repo_count: int = Field(ge=0)
    notification_channel_count: int = Field(ge=0)
    support_desk_count: int = Field(ge=0, description="Support-desk bindings of the tenant.")
    watchdog_enabled: bool
    daily_trend: list[DayCount] = Field(description="Days with at least one analysis, ascending.")


class ActivityEntry(_Answer):
    """One watchdog evaluation."""

    timestamp: str = Field(description="When the check ran: RFC 3339, UTC, with `Z`.")
    rule_id: str
    rule_name: str
    passed: bool
    alert_fired: bool
    suppressed_reason: SuppressedReason | None
    severity: Severity
    summary: str


StatsAnswer = Success[Stats]
ActivityAnswer = Success[list[ActivityEntry]]
