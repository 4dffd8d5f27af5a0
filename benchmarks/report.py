"""The report of a run: two tables and a JSON document."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import GoalResult, Result
from cli.output import stdout, table


def show(machine: dict[str, Any], results: Sequence[Result]) -> None:
    """Print the machine, the goals and the medians."""
    console: Console = stdout()
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(goals(results), medians(results))


def goals(results: Sequence[Result]) -> Table:
    """Return a table of the goals: the ratio of the medians, and the range over single rounds."""
    headers = ("row", "measured", "reference", "figure", "value", "goal (stretch)", "", "range of rounds")
    rows = [
        (
            result.row.name,
            each.goal.contestant,
            each.goal.reference or "",
            each.goal.figure,
            _number(each.value) + (" ×" if each.goal.reference else ""),
            each.goal.wanted,
            "met" if each.met else "MISSED",
            f"{_number(each.least)} … {_number(each.greatest)}",
        )
        for result in results
        for each in result.goal_results()
    ]
    return table("Goals", headers, rows, left=4)


def medians(results: Sequence[Result]) -> Table:
    """Return a table of the median of every figure."""
    rows = [
        (result.row.name, name, ", ".join(f"{_number(result.median(name, figure))} {figure}" for figure in runs[0]))
        for result in results
        for name, runs in result.runs.items()
    ]
    return table("Medians", ("row", "measured", "figures"), rows, left=3)


def document(machine: dict[str, Any], size: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return all figures of all runs as a JSON document."""
    return {"machine": machine, "size": size, "rows": [_row(result) for result in results]}


def _row(result: Result) -> dict[str, Any]:
    return {
        "name": result.row.name,
        "title": result.row.title,
        "goals": [_goal(each) for each in result.goal_results()],
        "runs": {contestant: list(runs) for contestant, runs in result.runs.items()},
    }


def _goal(each: GoalResult) -> dict[str, Any]:
    goal = each.goal
    return {
        "figure": goal.figure,
        "measured": goal.contestant,
        "beside": goal.reference,
        "value": each.value,
        "least": each.least,
        "greatest": each.greatest,
        "at_least": goal.at_least,
        "at_most": goal.at_most,
        "stretch": goal.stretch,
        "met": each.met,
    }


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
