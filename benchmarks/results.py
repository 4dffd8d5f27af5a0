"""The arithmetic: runs in turn, medians, percentiles by sorting."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from benchmarks.row import Contestants, Figures, Goal, Row


@dataclass(frozen=True, slots=True)
class Judged:
    """A goal, the median it was held against, and the least and greatest that any one round gave."""

    goal: Goal
    value: float
    least: float
    greatest: float

    @property
    def met(self) -> bool:
        """Whether the median meets the goal."""
        return self.goal.is_met_by(self.value)


@dataclass(frozen=True, slots=True)
class Result:
    """What a row gave: each contestant's figures, run by run."""

    row: Row
    runs: Mapping[str, Sequence[Figures]]

    def median(self, who: str, figure: str) -> float:
        """Return the median of a contestant's figure over its runs."""
        return median(run[figure] for run in self.runs[who])

    def judged(self) -> Iterator[Judged]:
        """Yield each goal with the ratio of the medians, and the spread of the ratios of single rounds."""
        for goal in self.row.goals:
            mine = [run[goal.figure] for run in self.runs[goal.who]]
            other = [run[goal.figure] for run in self.runs[goal.to]] if goal.to else [1.0] * len(mine)
            ratios = [one / two for one, two in zip(mine, other, strict=True)]
            yield Judged(goal, median(mine) / median(other), min(ratios), max(ratios))


def in_turn(contestants: Contestants, rounds: int) -> Iterator[tuple[str, Figures]]:
    """Run the contestants A B A B …, so that what slows the machine for a while slows all of them."""
    for _ in range(rounds):
        for who, measure in contestants.items():
            yield who, measure()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest of the values that so many per cent of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]
