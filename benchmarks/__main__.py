"""`python -m benchmarks [ROW …]`: measure, print tables, write JSON and a picture.

Everything shares this machine's cores: the servers, the product and the load. So a ratio of two figures of one run
means something, and a figure alone little.
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

from benchmarks import machine, place, report
from benchmarks.picture import draw
from benchmarks.place import Place
from benchmarks.registry import ROWS
from benchmarks.results import Result, in_turn
from benchmarks.row import Figures, Row
from benchmarks.running import MeasureError
from benchmarks.size import SIZES

_NAMES = [row.name for row in ROWS]


@click.command()
@click.argument("rows", nargs=-1, type=click.Choice(_NAMES))
@click.option("--quick", "size", flag_value="quick", help="Small numbers: does it still work?")
@click.option("--large", "size", flag_value="large", help="The longest logs and backlog: ten million rows.")
@click.option("--standard", "size", flag_value="standard", default="standard", help="The default.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), default="var/benchmarks.json", show_default=True)
@click.option("--svg", "svg_file", type=click.Path(path_type=Path), default="var/benchmarks.svg", show_default=True)
def main(rows: tuple[str, ...], size: str, json_file: Path, svg_file: Path) -> None:
    """Measure the ROWs, all by default, and hold them against their goals."""
    chosen = [row for row in ROWS if row.name in (rows or _NAMES)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that the servers go with us
    results: list[Result] = []
    with place.opened(SIZES[size]) as where:
        described = machine.describe(where)
        caption = f"{described['date']}, {described['cores']} cores, {described['cpu']}, size {size}"
        for row in chosen:
            if (result := _measured(row, where)) is not None:
                results.append(result)
            # After each row, so that what took minutes is there even if the next one is interrupted.
            _write(json_file, json.dumps(report.document(described, size, results), indent=2) + "\n")
            _write(svg_file, draw(results, caption))
    report.show(described, results)
    sys.exit(len(results) < len(chosen))


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def _measured(row: Row, where: Place) -> Result | None:
    """Measure a row; a terminal sees what is going on, a pipe a line when it is done. None if it could not be done."""
    console = Console(stderr=True)
    runs: defaultdict[str, list[Figures]] = defaultdict(list)
    rounds = (row.rounds or where.size.rounds) * row.finer
    began = time.monotonic()
    try:
        with console.status(f"{row.name}: preparing") as status, row.contestants(where) as contestants:
            for number, (who, figures) in enumerate(in_turn(contestants, rounds), start=1):
                runs[who].append(figures)
                status.update(f"{row.name}: {number} of {rounds * len(contestants)} runs")
    except (MeasureError, AssertionError, OSError, RedisError, psycopg.Error) as error:
        console.print(f"{row.name}: could not be measured: {error}", highlight=False)
        return None
    console.print(f"{row.name}: measured in {time.monotonic() - began:.0f} s", highlight=False)
    return Result(row, runs)


main()
