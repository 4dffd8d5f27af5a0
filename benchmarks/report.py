"""What is shown and kept of a run: two tables and a JSON document."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.results import Judged, Result
from cli.output import stdout, table


def show(machine: dict[str, Any], results: Sequence[Result]) -> None:
    """Print the machine, the goals, and the medians of all that was measured."""
    console: Console = stdout()
    for name, value in machine.items():
        console.print(f"{name}: {value}", highlight=False)
    console.print(goals(results), medians(results))


def goals(results: Sequence[Result]) -> Table:
    """Return a table of the goals, each as the ratio of medians with the spread of single rounds."""
    headers = ("row", "measured", "beside", "figure", "is", "goal (stretch)", "", "rounds from … to")
    rows = [
        (
            result.row.name,
            each.goal.who,
            each.goal.to or "",
            each.goal.figure,
            _number(each.value) + (" ×" if each.goal.to else ""),
            each.goal.wanted,
            "met" if each.met else "MISSED",
            f"{_number(each.least)} … {_number(each.greatest)}",
        )
        for result in results
        for each in result.judged()
    ]
    return table("Goals", headers, rows, left=4)


def medians(results: Sequence[Result]) -> Table:
    """Return a table of every figure's median over its runs."""
    rows = [
        (result.row.name, who, ", ".join(f"{_number(result.median(who, figure))} {figure}" for figure in runs[0]))
        for result in results
        for who, runs in result.runs.items()
    ]
    return table("Medians", ("row", "measured", "figures"), rows, left=3)


def document(machine: dict[str, Any], size: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return everything that was measured, every run of it, for machines."""
    return {"machine": machine, "size": size, "rows": [_row(result) for result in results]}


def _row(result: Result) -> dict[str, Any]:
    return {
        "name": result.row.name,
        "title": result.row.title,
        "goals": [_goal(each) for each in result.judged()],
        "runs": {who: list(runs) for who, runs in result.runs.items()},
    }


def _goal(each: Judged) -> dict[str, Any]:
    goal = each.goal
    return {
        "figure": goal.figure,
        "measured": goal.who,
        "beside": goal.to,
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
