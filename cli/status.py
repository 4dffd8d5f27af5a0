"""`projector status`: where every partition is, and who works."""

import os
import time

import click
from redis.exceptions import RedisError
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from cli import environment
from cli.output import print_json, stdout, table
from event_stream.envelope import time_text
from projections.faults import describe
from workers.runtime import Runtime
from workers.status import Status, read_status
from workers.verified import Verified

REFRESH_S = 1.0


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
@click.option("--watch", is_flag=True, help="Refresh until interrupted.")
def status(as_json: bool, watch: bool) -> None:
    """Show per partition what was read, what became of it, and what waits.

    read = applied + duplicates + parked, and added = read + in flight + lost.
    """
    environment.load()
    runtime = Runtime.from_environ(os.environ)
    if as_json and watch:
        raise click.UsageError("--watch is for people, --json for machines; choose one.")
    if as_json:
        found = read_status(runtime)
        print_json(found.model_dump() | {"problems": found.problems()})
    elif watch:
        _watch(runtime)
    else:
        stdout().print(shown(read_status(runtime)))


def _watch(runtime: Runtime) -> None:
    with Live(_now(runtime), console=stdout(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(REFRESH_S)
                live.update(_now(runtime), refresh=True)
        except KeyboardInterrupt:
            return


def _now(runtime: Runtime) -> RenderableType:
    """Return the status, or why there is none: an outage is when one watches."""
    try:
        return shown(read_status(runtime))
    except (RedisError, SQLAlchemyError) as error:
        return Text(describe(error), style="bold red")


def shown(found: Status) -> RenderableType:
    """Return the status as people look at it."""
    columns = ("added", "read", "applied", "duplicates", "parked", "lost", "in_flight")
    partitions = [
        (str(each.partition), each.position, *(getattr(each, name) for name in columns), f"{each.lag_s:.1f}")
        for each in found.partitions
    ]
    totals = [sum(getattr(each, name) for each in found.partitions) for name in columns]
    partitions.append(("all", "", *totals, f"{max(each.lag_s for each in found.partitions):.1f}"))
    heads = ("partition", "position", *(name.replace("_", " ") for name in columns), "lag s")
    alive = [(worker.name, worker.state, f"{worker.idle_s:.0f}") for worker in found.workers]
    alive += [(f"dispatcher {each.name}", each.state, f"{each.idle_s:.0f}") for each in found.dispatchers]
    letters = list(found.dead_letters.items()) or [("none", 0)]
    problems = found.problems()
    return Group(
        table("Partitions", heads, partitions, left=2),
        Text(),
        table("Open dead letters", ("reason", "letters"), letters),
        Text(),
        table(
            "Projections",
            ("name", "version", "tenants due", "tenants newer"),
            [(each.name, each.version or "newer", each.due, each.newer) for each in found.projections],
        ),
        Text(),
        table("Processes", ("name", "state", "silent s"), alive, left=2),
        Text(),
        *_failures(found),
        Text(_verified(found.verified)),
        Text(),
        *(Text(f"problem: {problem}", style="bold red") for problem in problems),
        *([] if problems else [Text("no problems", style="green")]),
    )


def _verified(found: Verified) -> str:
    if found.at_ms is None:
        return "not verified yet"
    skipped = f", {found.skipped:,} left out for their size" if found.skipped else ""
    return f"verified at {time_text(found.at_ms * 1000)}: {found.tenants:,} tenants{skipped}"


def _failures(found: Status) -> list[RenderableType]:
    heads = ("partition", "at fault", "error", "in a row", "next batch", "tries again in s")
    rows = [
        (str(each.partition), at.fault.value, at.error, at.failures, at.next_batch, f"{at.pause_s:.1f}")
        for each in found.partitions
        if (at := each.failure) is not None
    ]
    return [table("Failing", heads, rows, left=3), Text()] if rows else []
