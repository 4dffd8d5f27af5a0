"""What a row of the benchmark is: a value that says who is measured, and which ratio is the goal."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeAlias

from benchmarks.place import Place

Figures: TypeAlias = Mapping[str, float]
"""What one run of one contestant gave, such as `{"events/s": 31000.0}`."""
Measure: TypeAlias = Callable[[], Figures]
Contestants: TypeAlias = Mapping[str, Measure]


@dataclass(frozen=True, slots=True)
class Goal:
    """One figure of a contestant, as a ratio to the same figure of another one, or as it is if there is no other."""

    figure: str
    who: str
    to: str | None = None
    at_least: float | None = None
    at_most: float | None = None
    stretch: float | None = None

    @property
    def wanted(self) -> str:
        """What is asked for, for people."""
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return bound if self.stretch is None else f"{bound} ({self.stretch:g})"

    def is_met_by(self, value: float) -> bool:
        """Return whether a value is within the bounds."""
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


@dataclass(frozen=True, slots=True)
class Row:
    """Contestants that are measured in turn, A B A B, and the goals that their medians are held against.

    `contestants` prepares what they need and clears it away afterwards. `rounds` is for what one long run tells best;
    `finer` for contestants so alike that the machine drifts more than they differ: so many times the rounds, each of
    them so much shorter.
    """

    name: str
    title: str
    goals: tuple[Goal, ...]
    contestants: Callable[[Place], AbstractContextManager[Contestants]]
    rounds: int | None = None
    finer: int = 1
