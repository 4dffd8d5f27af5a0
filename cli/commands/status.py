"""`projector status`: health, partitions, processes, dead letters and the busiest tenants."""

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path

import click
from redis.exceptions import RedisError
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from cli import environment
from cli.output import stdout
from cli.rendering.status_screen import StatusScreen
from event_stream.envelope import time_text
from projections.error_classes import describe
from workers.reporting.overview import read_overview
from workers.runtime import Runtime

REFRESH_S = 1.0
PICTURE_WIDTH = 116


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; docs/reference/status.md lists every member.")
@click.option("--watch", is_flag=True, help="Refresh in place until interrupted.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write it to a file as an SVG picture.",
)
def status(as_json: bool, watch: bool, svg: Path | None) -> None:
    """Show health and problems, partitions, processes, dead letters and the busiest tenants.

    added = read + in flight + lost, and read = applied + duplicates + dead letters.
    """
    if as_json + watch + (svg is not None) > 1:
        raise click.UsageError("--json, --watch and --svg exclude each other; choose one.")
    environment.load()
    runtime = Runtime.from_environ(os.environ)
    if watch:
        _watch(runtime)
        return
    found = read_overview(runtime)
    if as_json:
        click.echo(found.model_dump_json(indent=2, by_alias=True))
    elif svg:
        svg.write_text(picture(StatusScreen(found)), encoding="utf-8")
    else:
        stdout().print(StatusScreen(found))


def _watch(runtime: Runtime) -> None:
    console = stdout()
    with suppress(KeyboardInterrupt):
        if console.is_terminal:
            _refresh(runtime, console)
        for reading in _readings(runtime):
            console.print(reading, "")


def _refresh(runtime: Runtime, console: Console) -> None:
    """Refresh in place; during an outage the error stands above the last status that was read."""
    last: StatusScreen | None = None
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for reading in _readings(runtime):
            if isinstance(reading, StatusScreen):
                last = reading
            if reading is last or last is None:
                live.update(reading, refresh=True)
            else:
                since = Text(f"last status, read at {time_text(last.overview.read_at_ms * 1000)}:", style="red")
                live.update(Group(reading, since, last), refresh=True)


def _readings(runtime: Runtime) -> Iterator[StatusScreen | Text]:
    """Yield the status every REFRESH_S, or the error of the server that does not answer."""
    while True:
        try:
            yield StatusScreen(read_overview(runtime))
        except (RedisError, SQLAlchemyError) as error:
            yield Text(describe(error), style="bold red")
        time.sleep(REFRESH_S)


def picture(shown: RenderableType) -> str:
    """Return what a terminal would show as an SVG picture. It loads no fonts from the network."""
    console = Console(record=True, width=PICTURE_WIDTH, force_terminal=True, color_system="truecolor", file=StringIO())
    console.print(shown, "")  # without the empty line, the frame cuts off descenders of the last one
    drawn = console.export_svg(title="projector status", unique_id="status")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
