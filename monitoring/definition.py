"""The definition of a metric: its name, type, labels and help text, and the function that reads its samples."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeAlias, TypeVar

S = TypeVar("S")


@dataclass(frozen=True, slots=True)
class HistogramValue:
    """The value of a histogram: a count for each bucket, not cumulative, and the sum of all observations.

    `counts` has one element more than `bounds`: the last bucket has no upper bound.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


Value: TypeAlias = float | HistogramValue
Samples: TypeAlias = Iterable[tuple[tuple[str, ...], Value]]
"""Pairs of label values, in the order of the metric's labels, and the value."""


@dataclass(frozen=True, slots=True)
class MetricDefinition(Generic[S]):
    """One metric. `samples` reads its samples from a source, which is a part of a MetricsSnapshot."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    samples: Callable[[S], Samples]
