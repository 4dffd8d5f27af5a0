"""`projector status`: where every partition is, how fast it goes, who works, and for whom."""

import os
import re
import time
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
from cli.screen import Screen
from event_stream.envelope import time_text
from projections.faults import describe
from workers.overview import read_overview
from workers.runtime import Runtime

REFRESH_S = 1.0
PICTURE_WIDTH = 116


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; docs/reference/status.md lists every member.")
@click.option("--watch", is_flag=True, help="Refresh in place until interrupted.")
@click.option("--svg", type=click.Path(dir_okay=False, writable=True, path_type=Path), help="Draw it into a file.")
def status(as_json: bool, watch: bool, svg: Path | None) -> None:
    """Show per partition what was read, what became of it, and what waits.

    read = applied + duplicates + parked, and added = read + in flight + lost.
    """
    if as_json + watch + (svg is not None) > 1:
        raise click.UsageError("choose one of --json, for machines, --watch, for people, and --svg, for documents.")
    environment.load()
    runtime = Runtime.from_environ(os.environ)
    if watch:
        _watch(runtime)
        return
    found = read_overview(runtime)
    if as_json:
        click.echo(found.model_dump_json(indent=2, by_alias=True))
    elif svg:
        svg.write_text(picture(Screen(found)), encoding="utf-8")
    else:
        stdout().print(Screen(found))


def _watch(runtime: Runtime) -> None:
    console = stdout()
    try:
        if console.is_terminal:
            _refresh(runtime, console)
        while True:
            console.print(_now(runtime, None)[0], "")
            time.sleep(REFRESH_S)
    except KeyboardInterrupt:
        return


def _refresh(runtime: Runtime, console: Console) -> None:
    shown, last = _now(runtime, None)
    with Live(shown, console=console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(REFRESH_S)
            shown, last = _now(runtime, last)
            live.update(shown, refresh=True)


def _now(runtime: Runtime, last: Screen | None) -> tuple[RenderableType, Screen | None]:
    """Return the status, or why there is none above the last one: an outage is when one watches."""
    try:
        last = Screen(read_overview(runtime))
    except (RedisError, SQLAlchemyError) as error:
        said = Text(describe(error), style="bold red")
        if last is None:
            return said, None
        since = Text(f"the last that was read, at {time_text(last.found.at_ms * 1000)}:", style="red")
        return Group(said, since, last), last
    return last, last


def picture(shown: RenderableType) -> str:
    """Return what a terminal would show as an SVG, which asks no server for fonts."""
    console = Console(record=True, width=PICTURE_WIDTH, force_terminal=True, color_system="truecolor", file=StringIO())
    console.print(shown)
    drawn = console.export_svg(title="projector status", unique_id="status")
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)
