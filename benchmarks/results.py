"""Results: runs the contestants in turn, and computes medians, ratios and percentiles."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from statistics import median

from benchmarks.row import BenchmarkRow, Contestants, Figures, Goal


@dataclass(frozen=True, slots=True)
class GoalResult:
    """A goal, the measured value, and the least and greatest value of a single round."""

    goal: Goal
    value: float
    least: float
    greatest: float

    @property
    def met(self) -> bool:
        """Whether the value meets the goal."""
        return self.goal.is_met_by(self.value)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a row: the figures of each contestant, run by run."""

    row: BenchmarkRow
    runs: Mapping[str, Sequence[Figures]]

    def median(self, contestant: str, figure: str) -> float:
        """Return the median of a contestant's figure over its runs."""
        return median(self._values(contestant, figure))

    def goal_results(self) -> Iterator[GoalResult]:
        """Yield the result of each goal: the ratio of the medians, and the range of the ratios of single rounds."""
        for goal in self.row.goals:
            values = self._values(goal.contestant, goal.figure)
            references = self._values(goal.reference, goal.figure) if goal.reference else [1.0] * len(values)
            ratios = [value / reference for value, reference in zip(values, references, strict=True)]
            yield GoalResult(goal, median(values) / median(references), min(ratios), max(ratios))

    def _values(self, contestant: str, figure: str) -> list[float]:
        return [run[figure] for run in self.runs[contestant]]


def run_interleaved(contestants: Contestants, rounds: int) -> Iterator[tuple[str, Figures]]:
    """Run the contestants in turn (A B A B …), so that a slow phase of the machine affects all of them."""
    for _ in range(rounds):
        for contestant, measure in contestants.items():
            yield contestant, measure()


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` per cent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]
