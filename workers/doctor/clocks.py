"""Checks of the servers' clocks."""

from collections.abc import Iterator

from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context


@warning_check(
    "redis-clock-differs",
    Subject.REDIS,
    meaning="Redis's clock and this host's differ by more than 5 s. Positions carry Redis's time, so lags and times"
    " cannot be compared. If another clock is wrong too, valid events may become dead letters (`time_in_future`).",
    remedy="synchronise both hosts with the same time servers (chrony, systemd-timesyncd)",
)
def redis_differs(context: Context) -> Iterator[Observation]:
    """Compare Redis's clock with this host's."""
    difference_s = _redis_difference_s(context)
    if abs(difference_s) > context.limits.clock_difference_s:
        yield Observation(f"Redis's clock is {difference_s:+.1f} s from this host's")


@error_check(
    "sqlite-clock-slow",
    Subject.SQLITE,
    "G7",
    meaning="This host's clock, which is also SQLite's, is behind Redis's by more than PROJECTOR_MAX_CLOCK_SKEW_S. So"
    " two of the three clocks that decide may be wrong, and valid events become dead letters (`time_in_future`).",
    remedy="correct the clock of this host, then `projector dead-letters replay --reason time_in_future`",
)
def sqlite_slow(context: Context) -> Iterator[Observation]:
    """Compare how far this host's clock is behind Redis's with the skew that workers allow for events."""
    allowed_s = context.settings.max_clock_skew_s
    behind_s = _redis_difference_s(context)
    if behind_s > allowed_s:
        yield Observation(f"this host is {behind_s:.1f} s behind Redis, PROJECTOR_MAX_CLOCK_SKEW_S is {allowed_s}")


def _redis_difference_s(context: Context) -> float:
    return context.clock_difference_s(lambda: context.stream.now_ms() / 1000)


@warning_check(
    "postgres-clock-differs",
    Subject.POSTGRESQL,
    meaning="PostgreSQL's clock and this host's differ by more than 5 s, so the times in their logs cannot be"
    " compared.",
    remedy="synchronise both hosts with the same time servers (chrony, systemd-timesyncd)",
)
def postgresql_differs(context: Context) -> Iterator[Observation]:
    """Compare PostgreSQL's clock with this host's."""
    difference_s = context.clock_difference_s(
        lambda: float(context.scalar("SELECT extract(epoch FROM clock_timestamp())"))
    )
    if abs(difference_s) > context.limits.clock_difference_s:
        yield Observation(f"PostgreSQL's clock is {difference_s:+.1f} s from this host's")
