"""What a soak showed, as tables for a person and as a document for a machine."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from cli.output import table
from projections.read_models.registry import PROJECTIONS
from tests.soak.run import Judged, Soak

HOT_TABLES = (*(projection.table.name for projection in PROJECTIONS), "checkpoint")


def show(console: Console, made: Soak) -> None:
    """Print what was done, what became of each series, and what is wrong."""
    hours, minutes, speed = made.plan.hours, made.plan.minutes, made.plan.speed
    console.print(f"{hours:g} h of traffic in {minutes:g} min, {speed:g} times as fast as in real time")
    console.print(
        table("done meanwhile", ("done", "times"), [(what, times) for what, times in sorted(made.done.items())])
    )
    headers = ("series", "verdict", "2nd quarter", "last quarter", "per hour of traffic", "most", "limit")
    console.print(table("flat or not", headers, [_row(made, each) for each in _shown(made)], left=2))
    rows = [(name, *made.updates[name].values(), _hot(**made.updates[name])) for name in HOT_TABLES]
    console.print(table("hot tables (told, not judged)", ("table", "dead rows", "updates", "HOT", "share"), rows))
    for fault in made.faults():
        console.print(Text(f"NOT WELL: {fault}", style="bold red"), soft_wrap=True)
    console.print("all is flat" if not made.faults() else f"{len(made.faults())} not as they should be")


def document(made: Soak, described: dict[str, Any]) -> dict[str, Any]:
    """Return all of it: plan, machine, verdicts, and every sample."""
    return {
        "machine": described,
        "plan": asdict(made.plan),
        "done": dict(made.done),
        "faults": made.faults(),
        "judged": [
            {"series": each.name, "wanted": each.rule.wanted, "why": each.rule.why, **asdict(each.finding)}
            for each in made.judged()
        ],
        "updates": made.updates,
        "at_s": [round(at_s, 2) for at_s in made.at_s],
        "samples": {name: [round(value, 3) for value in made.series(name)] for name in made.samples[0]},
    }


def _shown(made: Soak) -> Iterator[Judged]:
    """Yield what is worth a line: all that ever was more than nothing, or is not flat."""
    yield from (each for each in made.judged() if each.finding.most or not each.finding.flat)


def _row(made: Soak, each: Judged) -> tuple[str, ...]:
    found = each.finding
    # From the middle of one quarter to that of the other is half of the time.
    per_hour = (found.after - found.before) / (made.plan.hours / 2)
    return (
        each.name,
        "flat" if found.flat else "NOT FLAT",
        _number(found.before),
        _number(found.after),
        f"{per_hour:+,.2f}" if per_hour else "0",
        _number(found.most),
        f"{each.rule.wanted} {_number(found.limit)}",
    )


def _hot(dead: int, updated: int, hot: int) -> str:
    return f"{hot / updated:.1%}" if updated else "–"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.2f}"
