"""`projector status`: health, partitions, processes, dead letters and the busiest tenants."""

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
from redis.exceptions import RedisError
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from cli import environment
from cli.output import CliError, stdout
from cli.rendering.status_screen import StatusScreen
from cli.rendering.svg import render_svg
from event_stream.events.rfc3339 import format_time
from workers.reporting.both_servers import NoServerAnswersError, describe_missing
from workers.reporting.overview import read_overview
from workers.runtime import Runtime

REFRESH_S = 1.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON; see docs/reference/status.md for the members.")
@click.option("--watch", is_flag=True, help="Refresh every second until interrupted.")
@click.option(
    "--svg",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="Write an SVG picture to this file.",
)
def status(as_json: bool, watch: bool, svg: Path | None) -> None:
    """Show health and problems, partitions, processes, dead letters and the busiest tenants.

    For every partition, added = read + in flight + lost, and read = applied + duplicates + dead letters.
    """
    if as_json + watch + (svg is not None) > 1:
        raise click.UsageError("--json, --watch and --svg exclude each other; choose one.")
    environment.load()
    runtime = Runtime.for_reports(os.environ)
    if watch:
        _watch(runtime)
        return
    try:
        overview = read_overview(runtime)
    except (RedisError, SQLAlchemyError) as error:
        raise CliError(f"{describe_missing(error)}; run `projector doctor`") from error
    if as_json:
        click.echo(overview.model_dump_json(indent=2, by_alias=True))
    elif svg:
        svg.write_text(render_svg(StatusScreen(overview)), encoding="utf-8")
    else:
        stdout().print(StatusScreen(overview))


def _watch(runtime: Runtime) -> None:
    console = stdout()
    with suppress(KeyboardInterrupt):
        if console.is_terminal:
            _refresh(runtime, console)
        for screen in _read_forever(runtime):
            console.print(screen, "")


def _refresh(runtime: Runtime, console: Console) -> None:
    """Refresh in place. During an outage, show the error above the last status."""
    last: StatusScreen | None = None
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for screen in _read_forever(runtime):
            if isinstance(screen, StatusScreen):
                last = screen
            if screen is last or last is None:
                live.update(screen, refresh=True)
            else:
                read_at = format_time(last.overview.read_at_ms * 1000)
                title = Text(f"last status, read at {read_at}:", style="red")
                live.update(Group(screen, title, last), refresh=True)


def _read_forever(runtime: Runtime) -> Iterator[StatusScreen | Text]:
    """Yield the status every REFRESH_S, or the error if a server does not answer."""
    while True:
        try:
            yield StatusScreen(read_overview(runtime))
        except (RedisError, SQLAlchemyError) as error:
            yield Text(describe_missing(error), style="bold red")
        except NoServerAnswersError as error:
            yield Text(str(error), style="bold red")
        time.sleep(REFRESH_S)
