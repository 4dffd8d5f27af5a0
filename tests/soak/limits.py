"""Limits that decide whether a series of numbers is flat.

The first quarter is for warming up: pools open, caches fill, streams reach the age at which they are trimmed. Then the
medians of the second and the last quarter are compared. Single peaks and sawtooth patterns move neither of them; a leak,
steady or in one step, moves the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

SAMPLES_MIN = 8


@dataclass(frozen=True)
class Measured:
    """A measured series: medians of the second and the last quarter, maximum, limit, and whether it is flat."""

    before: float
    after: float
    most: float
    limit: float
    flat: bool


class Limit(Protocol):
    """When a series counts as flat, and why."""

    @property
    def why(self) -> str:
        """The reason for the limit."""

    @property
    def wanted(self) -> str:
        """What the limit applies to, in a few words."""

    def measure(self, values: Sequence[float]) -> Measured:
        """Measure at least SAMPLES_MIN values taken at equal intervals."""


@dataclass(frozen=True)
class Flat:
    """May grow from the second quarter to the last by `by`, or by the share `share`, whichever is more."""

    by: float
    why: str
    share: float = 0.0
    wanted: str = "growth at most"

    def measure(self, values: Sequence[float]) -> Measured:
        before, after = _typical(values)
        limit = max(self.by, self.share * before)
        return Measured(before, after, max(values), limit, flat=after - before <= limit)


@dataclass(frozen=True)
class AtMost:
    """May never exceed a limit after the first quarter."""

    limit: float
    why: str
    wanted: str = "never above"

    def measure(self, values: Sequence[float]) -> Measured:
        most = max(values[len(values) // 4 :])
        return Measured(*_typical(values), most, self.limit, flat=most <= self.limit)


@dataclass(frozen=True)
class Constant:
    """Has the same value in every sample."""

    why: str
    wanted: str = "change at most"

    def measure(self, values: Sequence[float]) -> Measured:
        return Measured(*_typical(values), max(values), 0.0, flat=max(values) == min(values))


def _typical(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the second and of the last quarter."""
    assert len(values) >= SAMPLES_MIN
    quarter = len(values) // 4
    return median(values[quarter : 2 * quarter]), median(values[-quarter:])
