"""`python -m benchmarks [ROW …]`: measures rows, prints tables, and writes a JSON document and a chart.

Servers, projector and load share this machine's cores, so read the ratios within a run, not the figures alone.
"""

import json
import signal
import sys
import time
from collections import defaultdict
from pathlib import Path

import click
import psycopg
from redis.exceptions import RedisError
from rich.console import Console

from benchmarks import machine, report
from benchmarks.chart import draw_chart
from benchmarks.registry import ROWS
from benchmarks.results import Result, run_interleaved
from benchmarks.row import BenchmarkRow, Figures
from benchmarks.sandbox import Sandbox, start_sandbox
from benchmarks.size import SIZES
from benchmarks.subprocesses import BenchmarkError

_NAMES = [row.name for row in ROWS]


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(_NAMES))
@click.option("--quick", "size", flag_value="quick", help="Small numbers, as a smoke test.")
@click.option("--large", "size", flag_value="large", help="The longest logs and backlog: ten million rows.")
@click.option("--standard", "size", flag_value="standard", default="standard", help="The default.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default="var/benchmarks.json", show_default=True)
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), default="var/benchmarks.svg", show_default=True)
def main(rows: tuple[str, ...], size: str, json_file: Path, svg_file: Path) -> None:
    """Measure the ROWs (default: all) and compare them with their goals."""
    chosen = [row for row in ROWS if row.name in (rows or _NAMES)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the servers stop too
    results: list[Result] = []
    with start_sandbox(SIZES[size]) as sandbox:
        described = machine.describe(sandbox)
        caption = f"{described['date']}, {described['cores']} cores, {described['cpu']}, size {size}"
        for row in chosen:
            if (result := _measure(row, sandbox)) is not None:
                results.append(result)
            # After each row, so that an interrupted run keeps its results.
            _write(json_file, json.dumps(report.document(described, size, results), indent=2) + "\n")
            _write(svg_file, draw_chart(results, caption))
    report.show(described, results)
    sys.exit(len(results) < len(chosen))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _measure(row: BenchmarkRow, sandbox: Sandbox) -> Result | None:
    """Measure a row and report progress on standard error. Returns None if the measurement failed."""
    console = Console(stderr=True)
    runs: defaultdict[str, list[Figures]] = defaultdict(list)
    rounds = (row.rounds or sandbox.size.rounds) * row.rounds_factor
    began = time.monotonic()
    try:
        with console.status(f"{row.name}: preparing") as status, row.contestants(sandbox) as contestants:
            for number, (contestant, figures) in enumerate(run_interleaved(contestants, rounds), start=1):
                runs[contestant].append(figures)
                status.update(f"{row.name}: {number} of {rounds * len(contestants)} runs")
    except (BenchmarkError, AssertionError, OSError, RedisError, psycopg.Error) as error:
        console.print(f"{row.name}: could not be measured: {error}", highlight=False)
        return None
    console.print(f"{row.name}: measured in {time.monotonic() - began:.0f} s", highlight=False)
    return Result(row, runs)


main()
