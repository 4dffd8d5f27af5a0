"""The arithmetic of the benchmark: medians, spreads, percentiles, goals."""

from contextlib import AbstractContextManager, nullcontext

import pytest

from benchmarks.chart import goal_factor
from benchmarks.registry import ROWS
from benchmarks.results import Result, percentile, run_interleaved
from benchmarks.row import BenchmarkRow, Contestants, Goal
from benchmarks.sandbox import Sandbox

pytestmark = pytest.mark.full


def no_contestants(_place: Sandbox) -> AbstractContextManager[Contestants]:
    return nullcontext({})


def result(goal: Goal, **runs: list[float]) -> Result:
    row = BenchmarkRow("row", "a row", (goal,), no_contestants)
    return Result(row, {who: [{"events/s": value} for value in values] for who, values in runs.items()})


def test_contestants_are_measured_in_turn() -> None:
    contestants: Contestants = {"a": lambda: {"x": 1.0}, "b": lambda: {"x": 2.0}}
    assert [who for who, _ in run_interleaved(contestants, 3)] == ["a", "b", "a", "b", "a", "b"]


def test_a_goal_compares_the_ratio_of_medians_and_shows_the_spread_of_rounds() -> None:
    measured = result(Goal("events/s", "mine", "limit", at_least=0.5), mine=[10, 60, 55], limit=[100, 100, 110])
    (goal_result,) = measured.goal_results()
    assert (goal_result.value, goal_result.least, goal_result.greatest) == (0.55, 0.1, 0.6)
    assert goal_result.met
    assert goal_factor(goal_result) == pytest.approx(1.1)


def test_a_goal_without_a_reference_compares_the_value_itself() -> None:
    (goal_result,) = result(Goal("events/s", "mine", at_most=40), mine=[50, 80, 70]).goal_results()
    assert goal_result.value == 70
    assert not goal_result.met
    assert goal_factor(goal_result) == pytest.approx(40 / 70)


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.5, 100), (100, 100)])
def test_percentiles_are_exact(percent: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], percent) == expected


def test_rows_have_unique_names_and_every_goal_has_one_bound() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == len(set(names))
    for goal in (goal for row in ROWS for goal in row.goals):
        assert (goal.at_least is None) != (goal.at_most is None)
