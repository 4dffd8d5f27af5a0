"""Reports a soak as tables and as a JSON document."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from cli.output import table
from projections.read_models.registry import PROJECTIONS
from tests.soak.run import SeriesResult, Soak

HOT_TABLES = (*(projection.table.name for projection in PROJECTIONS), "checkpoint")


def show(console: Console, made: Soak) -> None:
    """Print the work done, the result of each series, and the failures."""
    hours, minutes, speed = made.plan.hours, made.plan.minutes, made.plan.speed
    console.print(f"{hours:g} h of traffic in {minutes:g} min, {speed:g} times faster than real time")
    console.print(table("work done", ("action", "times"), [(what, times) for what, times in sorted(made.done.items())]))
    headers = ("series", "verdict", "2nd quarter", "last quarter", "per hour of traffic", "most", "limit")
    console.print(table("flat or not", headers, [_row(made, each) for each in _shown(made)], left=2))
    rows = [(name, *made.updates[name].values(), _hot(**made.updates[name])) for name in HOT_TABLES]
    console.print(table("hot tables (for information)", ("table", "dead rows", "updates", "HOT", "share"), rows))
    for fault in made.failures():
        console.print(Text(f"FAILED: {fault}", style="bold red"), soft_wrap=True)
    console.print("all is flat" if not made.failures() else f"{len(made.failures())} failures")


def document(made: Soak, described: dict[str, Any]) -> dict[str, Any]:
    """Return the plan, the machine, all results and every sample."""
    return {
        "machine": described,
        "plan": asdict(made.plan),
        "done": dict(made.done),
        "failures": made.failures(),
        "results": [
            {"series": each.name, "wanted": each.limit.wanted, "why": each.limit.why, **asdict(each.measured)}
            for each in made.results()
        ],
        "updates": made.updates,
        "at_s": [round(at_s, 2) for at_s in made.at_s],
        "samples": {name: [round(value, 3) for value in made.series(name)] for name in made.samples[0]},
    }


def _shown(made: Soak) -> Iterator[SeriesResult]:
    """Yield the series worth a line: those that were ever above zero or are not flat."""
    yield from (each for each in made.results() if each.measured.most or not each.measured.flat)


def _row(made: Soak, each: SeriesResult) -> tuple[str, ...]:
    found = each.measured
    # The middles of the two compared quarters are half of the run apart.
    per_hour = (found.after - found.before) / (made.plan.hours / 2)
    return (
        each.name,
        "flat" if found.flat else "NOT FLAT",
        _number(found.before),
        _number(found.after),
        f"{per_hour:+,.2f}" if per_hour else "0",
        _number(found.most),
        f"{each.limit.wanted} {_number(found.limit)}",
    )


def _hot(dead: int, updated: int, hot: int) -> str:
    return f"{hot / updated:.1%}" if updated else "–"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
