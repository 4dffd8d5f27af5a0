"""What `projector status` looks like: it fits itself to the terminal, and is plain in a pipe."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.columns import framed, plain, width_of
from cli.look import at_terminal, in_pipe
from cli.sections import Section, sections
from event_stream.envelope import time_text
from workers.overview import Overview
from workers.verified import Verified

COLOURS = {"ok": "green", "degraded": "yellow", "failing": "red"}
BARS = (30, 20, 15, 12, 10)  # how many fit; each divides the history
COUNTERS = ("added", "read", "applied", "duplicates", "parked", "lost", "in_flight")
GAP = 3  # between tables that stand beside each other


@dataclass(frozen=True, slots=True)
class Screen:
    """The whole of it; the state in a word and the problems first, so that they are seen however low the terminal."""

    found: Overview

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Choose by where it is shown, and how wide that is now."""
        if console.is_terminal:
            yield from _at_terminal(self.found, options.max_width, ascii_only=options.ascii_only)
        else:
            yield from _in_pipe(self.found)


def _at_terminal(found: Overview, width: int, *, ascii_only: bool) -> Iterator[RenderableType]:
    yield _head(found, width, ascii_only=ascii_only)
    for row in _widest(found, width, ascii_only=ascii_only):
        yield Text()
        yield _beside(row, width)


def _in_pipe(found: Overview) -> Iterator[RenderableType]:
    yield Text(f"health: {found.health}")
    yield from (Text(f"problem: {problem}") for problem in found.problems())
    yield from map(Text, _facts(found))
    for section in (section for row in sections(found, in_pipe()) for section in row):
        yield from (Text(), Text(section.title), plain(section.columns))


def _head(found: Overview, width: int, *, ascii_only: bool) -> Panel:
    dot, mark = "*-" if ascii_only else "●▸"
    colour = COLOURS[found.health]
    lines = [
        Text(f"{dot} {found.health}", style=f"bold {colour}"),
        *(Text(f"{mark} {problem}", style=colour) for problem in found.problems()),
        *(Text(fact, style="dim") for fact in _facts(found)),
    ]
    return Panel(
        Group(*lines),
        title="projector",
        title_align="left",
        subtitle=time_text(found.at_ms * 1000),
        subtitle_align="right",
        border_style=colour,
        box=box.ROUNDED,
        width=width,
    )


def _facts(found: Overview) -> list[str]:
    total = {name: f"{sum(getattr(each, name) for each in found.partitions):,}" for name in COUNTERS}
    return [
        "{added} added = {read} read + {in_flight} in flight + {lost} lost".format(**total),
        "{read} read = {applied} applied + {duplicates} duplicates + {parked} parked".format(**total),
        f"{found.queue_length:,} drains wait for a worker; {_verified(found.verified)}",
    ]


def _verified(found: Verified) -> str:
    if found.at_ms is None:
        return "not verified yet"
    skipped = f", {found.skipped:,} left out for their size" if found.skipped else ""
    return f"verified at {time_text(found.at_ms // 1000 * 1_000_000)}: {found.tenants:,} tenants{skipped}"


def _widest(found: Overview, width: int, *, ascii_only: bool) -> list[list[Section]]:
    """Return the tables with the longest bars with which every column of the first fits, or the shortest."""
    for cells in BARS:
        rows = sections(found, at_terminal(cells, ascii_only=ascii_only))
        if width_of(rows[0][0].columns, gap=2) <= width:
            break
    return rows


def _beside(row: Sequence[Section], width: int) -> RenderableType:
    """Return tables beside each other where all their columns fit, else below each other."""
    tables = [Group(Text(each.title, style="bold cyan"), framed(each.columns, width)) for each in row]
    widths = [max(width_of(each.columns, gap=2), len(each.title)) for each in row]
    if sum(widths) + GAP * (len(row) - 1) > width:
        first, *others = tables
        return Group(first, *(part for table in others for part in (Text(), table)))
    grid = Table.grid(padding=(0, GAP, 0, 0))
    grid.add_row(*tables)
    return grid
