"""`python -m tests.chaos`: many seeded runs, and a table of the guarantees that held."""

import random
import signal
import sys
from collections import Counter

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.chaos.plan import DATABASES, Kind, plan
from tests.chaos.promises import PROMISES
from tests.chaos.runs import Result, environments

SEEDS_SHOWN = 8
# Log events that show that a fault interrupted work.
LOG_EVENTS = {
    "drain.stale_checkpoint": "drains that were overtaken and changed nothing",
    "drain.failed": "batches that failed and were retried",
    "dispatcher.outage": "sweeps without a server",
}


@click.command()
@click.option("--runs", default=200, show_default=True, help="How many runs.")
@click.option("--seed", type=int, help="The seed of the first run; later runs count up from it. Default: random.")
@click.option("--database", type=click.Choice([*DATABASES, "both"]), default="both", show_default=True)
def main(runs: int, seed: int | None, database: str) -> None:
    """Kill and pause real processes and servers at random moments, and check every guarantee after each run."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends all servers and processes
    console = Console() if sys.stdout.isatty() else Console(width=160, no_color=True)
    first = random.randrange(10**6) if seed is None else seed
    chosen = "" if database == "both" else database
    console.print(f"{runs} runs from seed {first}, {database}")
    results: list[Result] = []
    with environments() as environment, _progress(console) as progress:
        task = progress.add_task("runs", total=runs)
        for number in range(runs):
            results.append(environment.run(plan(first + number, chosen)))
            _print_result(progress.console, number + 1, runs, results[-1])
            progress.update(task, advance=1, description=_summary(results))
    console.print(promises_table(results))
    console.print(faults_table(results))
    sys.exit(_print_failures(console, results))


def promises_table(results: list[Result]) -> Table:
    table = Table(title="guarantees", title_justify="left")
    for heading in ("guarantee", "runs", "held", "broken", "seeds that broke it"):
        table.add_column(heading, justify="right" if heading in ("runs", "held", "broken") else "left")
    for name in PROMISES:
        seeds = [str(result.plan.seed) for result in results if name in result.broken]
        held = len(results) - len(seeds)
        table.add_row(name, str(len(results)), str(held), str(len(seeds)), " ".join(seeds[:SEEDS_SHOWN]))
    return table


def faults_table(results: list[Result]) -> Table:
    """Return how many faults of each kind happened, and how often they interrupted work."""
    happened = sum((result.happened for result in results), Counter[str]())
    table = Table(title="faults that happened", title_justify="left")
    table.add_column("fault")
    table.add_column("times", justify="right")
    for kind in Kind:
        table.add_row(kind.value, str(happened[kind]))
    table.add_section()
    logged = sum((result.logged for result in results), Counter[str]())
    for name, what in LOG_EVENTS.items():
        table.add_row(what, str(logged[name]))
    return table


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(
        *columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console, disable=not console.is_terminal
    )


def _print_result(console: Console, number: int, runs: int, result: Result) -> None:
    """Print a line for a run; on a terminal only for failed runs."""
    if console.is_terminal and not result.broken:
        return
    faults = ", ".join(f"{times} × {kind}" for kind, times in sorted(result.happened.items()) if times)
    outcome = "all held" if not result.broken else f"BROKEN: {'; '.join(map(': '.join, result.broken.items()))}"
    console.print(
        f"{number}/{runs} seed {result.plan.seed} {result.plan.database} {result.took_s:.1f} s: {outcome} ({faults})"
    )


def _summary(results: list[Result]) -> str:
    broken = sum(bool(result.broken) for result in results)
    return f"runs ({broken} broken)" if broken else "runs"


def _print_failures(console: Console, results: list[Result]) -> int:
    """Print how to repeat the failed runs; returns the exit code."""
    for result in results:
        if result.broken:
            again = f"python -m tests.chaos --runs 1 --seed {result.plan.seed} --database {result.plan.database}"
            console.print(f"{again}    # its processes' output: {result.log}")
    return int(any(result.broken for result in results))


if __name__ == "__main__":
    main()
