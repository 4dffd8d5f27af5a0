"""`python -m tests.soak`: an hour of traffic in twelve minutes; exit 1 if anything is not flat."""

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cli.output import PLAIN_WIDTH
from tests.soak import report
from tests.soak.charts import draw
from tests.soak.machine_info import describe_machine
from tests.soak.plan import Plan
from tests.soak.run import soak

DEFAULT = Plan(minutes=12)
MINUTES_MIN = 6.0  # so that trimming starts within the first quarter


@click.command()
@click.option(
    "--minutes",
    type=click.FloatRange(min=MINUTES_MIN),
    default=DEFAULT.minutes,
    show_default=True,
    help="How long the soak runs.",
)
@click.option("--speed", default=DEFAULT.speed, show_default=True, help="How many times faster than real time.")
@click.option("--events", default=DEFAULT.events_per_s, show_default=True, help="Events a second, in real time.")
@click.option("--reads", default=DEFAULT.reads_per_s, show_default=True, help="Reads a second, in real time.")
@click.option("--seed", default=DEFAULT.seed, show_default=True, help="The seed of the traffic.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default="var/soak.json", show_default=True)
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), default="var/soak.svg", show_default=True)
def main(minutes: float, speed: float, events: float, reads: float, seed: int, json_file: Path, svg_file: Path) -> None:
    """Run traffic through real processes and servers, and check that memory, connections, keys, queues and tables stay flat."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends all servers and processes
    console = Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH, no_color=True)
    plan = replace(DEFAULT, minutes=minutes, speed=speed, events_per_s=events, reads_per_s=reads, seed=seed)
    with _progress() as progress:
        task = progress.add_task("starting", total=plan.lasts_s)
        made = soak(plan, lambda at_s: progress.update(task, completed=at_s, description="running"))
    machine = describe_machine()
    _write(json_file, json.dumps(report.document(made, machine), indent=1) + "\n")
    _write(svg_file, draw(made, ", ".join(str(machine[name]) for name in ("date", "machine", "python"))))
    report.show(console, made)
    sys.exit(bool(made.failures()))


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


if __name__ == "__main__":
    main()
