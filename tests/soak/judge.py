"""The judge: of each series of numbers, whether it is flat. It looks at numbers only, so it can be tested with any.

The first quarter is for warming up: pools open, caches fill, streams reach the age at which they are trimmed. The
second is what the last is compared with, by their medians: a peak here or there, or a sawtooth, moves neither; a leak,
steady or in one step, moves the last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Protocol

SAMPLES_MIN = 8


@dataclass(frozen=True)
class Finding:
    """What was found of a series: typical values of the second and the last quarter, the most ever, and the limit."""

    before: float
    after: float
    most: float
    limit: float
    flat: bool


class Rule(Protocol):
    """When a series counts as flat, and why that is the right measure for it."""

    @property
    def why(self) -> str:
        """The reason for the limit."""

    @property
    def wanted(self) -> str:
        """What the limit is of, in a few words."""

    def judge(self, values: Sequence[float]) -> Finding:
        """Return what was found of at least SAMPLES_MIN values, taken at equal intervals."""


@dataclass(frozen=True)
class Flat:
    """May grow from the second quarter to the last by so much, or by so large a share, whichever is more."""

    by: float
    why: str
    share: float = 0.0
    wanted: str = "growth at most"

    def judge(self, values: Sequence[float]) -> Finding:
        before, after = _typical(values)
        limit = max(self.by, self.share * before)
        return Finding(before, after, max(values), limit, flat=after - before <= limit)


@dataclass(frozen=True)
class AtMost:
    """May never pass a limit once it is warm."""

    limit: float
    why: str
    wanted: str = "never above"

    def judge(self, values: Sequence[float]) -> Finding:
        most = max(values[len(values) // 4 :])
        return Finding(*_typical(values), most, self.limit, flat=most <= self.limit)


@dataclass(frozen=True)
class Constant:
    """Is the same in every sample."""

    why: str
    wanted: str = "change at most"

    def judge(self, values: Sequence[float]) -> Finding:
        return Finding(*_typical(values), max(values), 0.0, flat=max(values) == min(values))


def _typical(values: Sequence[float]) -> tuple[float, float]:
    """Return the medians of the second and of the last quarter."""
    assert len(values) >= SAMPLES_MIN
    quarter = len(values) // 4
    return median(values[quarter : 2 * quarter]), median(values[-quarter:])
