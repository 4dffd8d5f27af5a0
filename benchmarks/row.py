"""The definition of a row of the benchmark: its contestants and its goals."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.sandbox import Sandbox

Figures: TypeAlias = Mapping[str, float]
"""The figures of one run of a contestant, such as `{"events/s": 31000.0}`."""
Measurement: TypeAlias = Callable[[], Figures]
"""A function that runs a contestant once."""
Contestants: TypeAlias = Mapping[str, Measurement]
"""The measurements of a row by name."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound for a contestant's figure. With `reference`, it bounds the ratio to the reference's same figure."""

    figure: str
    contestant: str
    reference: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    stretch: float | None = None

    @property
    def wanted(self) -> str:
        """The bound as text."""
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return bound if self.stretch is None else f"{bound} ({self.stretch:g})"

    def is_met_by(self, value: float) -> bool:
        """Return whether a value is within the bounds."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True)
class BenchmarkRow:
    """Contestants that are measured in turn, and the goals for the medians of their figures.

    `contestants` is a context manager that prepares and cleans up. `rounds` overrides the size's number of rounds.
    `rounds_factor` multiplies it, for contestants that differ less than the machine drifts; the contestants should
    then shorten each round by the same factor.
    """

    name: str
    title: str
    goals: tuple[Goal, ...]
    contestants: Callable[[Sandbox], AbstractContextManager[Contestants]]
    rounds: int | None = None
    rounds_factor: int = 1
