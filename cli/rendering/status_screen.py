"""The screen of `projector status`: coloured tables on a terminal, plain text with full numbers in a pipe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.columns import Columns
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cli.output import table
from event_stream.events.rfc3339 import format_time
from event_stream.plurals import counted
from workers.maintenance.verify_results import VerificationSummary
from workers.reporting.overview import Overview
from workers.reporting.problems import FAILING_AFTER
from workers.reporting.status import PartitionStatus, ProcessStatus
from workers.telemetry.apply_rates import HISTORY_S

HEALTH_COLOURS = {"ok": "green", "degraded": "yellow", "failing": "red"}
LAG_WARNING_S = 5.0
LAG_CRITICAL_S = 60.0  # the alert ProjectorLags fires here
WIDE = 100  # narrower terminals get one space between columns, so that ten columns fit into 80 characters
PARTITION_HEADERS = (
    *("p", "position", "lag", "in\nflight", "per s,\n1 min", "per s,\n10 min"),
    *("applied", "duplicates", "dead\nletters", "lost"),
)
NO_TENANT = "(names no tenant)"
NO_SOURCE = "(names no source)"


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """How counts and durations become text."""

    count: Callable[[int], str]
    duration: Callable[[float], str]


def short_count(number: int) -> str:
    """Return a count in at most seven characters."""
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:,.1f}{unit}"
    return f"{number:,}"


def short_duration(seconds: float) -> str:
    """Return a duration in the largest unit that leaves at least two of it."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s"


SHORT = NumberFormat(short_count, short_duration)
FULL = NumberFormat("{:,}".format, "{:,.1f} s".format)


@dataclass(frozen=True, slots=True)
class StatusScreen:
    """The status of a deployment. Health and problems come first, so that a short terminal shows them."""

    overview: Overview

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render for the console: small tables stand side by side on a terminal where they fit."""
        summary = Group(*_summary(self.overview))
        if not console.is_terminal:
            yield summary
            for row in _rows(self.overview, FULL):
                for each in row:
                    yield from ("", each)
            return
        yield Panel(
            summary,
            title="projector status",
            title_align="left",
            subtitle=format_time(self.overview.read_at_ms * 1000),
            subtitle_align="right",
            border_style=HEALTH_COLOURS[self.overview.health],
        )
        for row in _rows(self.overview, SHORT):
            if options.max_width < WIDE:
                for each in row:
                    each.padding = (0, 1, 0, 0)
            yield from ("", Columns(row, padding=(0, 3)))


def _summary(overview: Overview) -> Iterator[Text]:
    colour = HEALTH_COLOURS[overview.health]
    yield Text.assemble("health: ", (overview.health, f"bold {colour}"))
    yield from (Text(f"problem: {problem}", style=colour) for problem in overview.problems)
    if overview.read_from_standby:
        yield Text("read from a standby: what the database knows is as old as its copy", style="yellow")

    def total(name: str) -> int:
        return sum(getattr(each, name) for each in overview.partitions)

    yield Text(
        f"{total('added'):,} added = {total('read'):,} read + {total('in_flight'):,} in flight"
        f" + {total('lost'):,} lost",
        style="dim",
    )
    yield Text(
        f"{total('read'):,} read = {total('applied'):,} applied + {counted(total('duplicates'), 'duplicate')}"
        f" + {counted(total('dead_lettered'), 'dead letter')}",
        style="dim",
    )
    yield Text(
        f"jobs waiting for a worker: {overview.queue_length:,}; {_last_verification(overview.verification)}",
        style="dim",
    )


def _last_verification(summary: VerificationSummary) -> str:
    if summary.finished_ms is None:
        return "not verified yet"
    skipped = f", {summary.skipped_tenants:,} skipped because they are too large" if summary.skipped_tenants else ""
    finished = format_time(summary.finished_ms // 1000 * 1_000_000)
    return f"verified {counted(summary.tenants, 'tenant')} at {finished}{skipped}"


def _rows(overview: Overview, numbers: NumberFormat) -> Iterator[list[Table]]:
    """Yield the tables from top to bottom; the tables of one row may stand side by side."""
    yield [_partitions(overview, numbers)]
    if any(each.failure for each in overview.partitions):
        yield [_failures(overview, numbers)]
    yield [_processes(overview, numbers)]
    yield [_dead_letters(overview, numbers), _projections(overview, numbers)]
    if overview.dead_letter_sources:
        yield [_dead_letter_sources(overview, numbers)]
    yield [_tenants_by_traffic(overview), _tenants_by_lag(overview, numbers)]


def _partitions(overview: Overview, numbers: NumberFormat) -> Table:
    def row(label: Text, position: str, partitions: list[PartitionStatus], per_s: float, recent: int) -> list[Text]:
        def count(name: str, style: str = "") -> Text:
            return _count(sum(getattr(each, name) for each in partitions), numbers, style)

        return [
            label,
            Text(position),
            _lag(max(each.lag_s for each in partitions), numbers),
            count("in_flight", "bold"),
            _rate(per_s),
            _rate(recent / HISTORY_S),
            count("applied"),
            count("duplicates"),
            count("dead_lettered", "bold yellow"),
            count("lost", "bold red"),
        ]

    rows = [
        row(
            Text(str(each.partition), style=_colour(each)),
            each.position,
            [each],
            rate.events_per_s,
            rate.events_last_10_min,
        )
        for each, rate in zip(overview.partitions, overview.rates, strict=True)
    ]
    all_per_s = sum(rate.events_per_s for rate in overview.rates)
    all_recent = sum(rate.events_last_10_min for rate in overview.rates)
    rows.append(row(Text("all"), "", overview.partitions, all_per_s, all_recent))
    return table("Partitions", PARTITION_HEADERS, rows, left=2)


def _colour(partition: PartitionStatus) -> str:
    failure = partition.failure
    if partition.stalled or (failure and failure.consecutive_failures >= FAILING_AFTER):
        return "bold red"
    return "yellow" if failure else "green"


def _failures(overview: Overview, numbers: NumberFormat) -> Table:
    rows = [
        (
            str(each.partition),
            failure.fault.value,
            Text(failure.error, style="red"),
            failure.consecutive_failures,
            failure.next_batch_entries,
            numbers.duration(failure.retry_after_s),
        )
        for each in overview.partitions
        if (failure := each.failure)
    ]
    return table("Failing", ("p", "fault", "error", "failures\nin a row", "next\nbatch", "retry\nafter"), rows, left=3)


def _processes(overview: Overview, numbers: NumberFormat) -> Table:
    def row(role: str, process: ProcessStatus) -> tuple[str, str, Text, Text]:
        state, style = ("silent", "bold red") if process.stalled else (process.state, "green")
        return (
            role,
            process.name,
            Text(state, style=style),
            Text(numbers.duration(process.heartbeat_age_s), style=style),
        )

    workers = [row("worker", each) for each in overview.workers]
    dispatchers = [row("dispatcher", each) for each in overview.dispatchers]
    return table("Workers and dispatchers", ("role", "name", "state", "last seen"), [*workers, *dispatchers], left=3)


def _dead_letters(overview: Overview, numbers: NumberFormat) -> Table:
    rows = [(reason, _count(number, numbers, "bold yellow")) for reason, number in overview.open_dead_letters.items()]
    return table("Open dead letters", ("reason", "open"), rows or [("none", "0")])


def _dead_letter_sources(overview: Overview, numbers: NumberFormat) -> Table:
    rows = [
        (NO_SOURCE if each.source is None else each.source, str(each.partition), _count(each.entries, numbers, "bold"))
        for each in overview.dead_letter_sources
    ]
    return table("Sources of dead letters in 10 min", ("source", "p", "entries"), rows)


def _projections(overview: Overview, numbers: NumberFormat) -> Table:
    rows = [
        (
            each.name,
            "newer" if each.version is None else str(each.version),
            _count(each.rebuild_pending_tenants, numbers, "bold red"),
            _count(each.newer_version_tenants, numbers, "bold red"),
        )
        for each in overview.projections
    ]
    return table("Projections", ("name", "version", "to rebuild", "too new"), rows)


def _tenants_by_traffic(overview: Overview) -> Table:
    tenants = overview.tenants
    title = f"Most traffic in 10 min{', sampled' if tenants.traffic_is_sample else ''}"
    if tenants.by_traffic is None:
        return table(title, ("tenant",), [("this database role may not read the event log",)])
    rows = [(each.tenant_id, str(each.partition), f"{each.events_per_s:,.2f}") for each in tenants.by_traffic]
    return table(title, ("tenant", "p", "per s"), rows or [("none", "", "")], left=2)


def _tenants_by_lag(overview: Overview, numbers: NumberFormat) -> Table:
    tenants = overview.tenants
    title = f"Most in flight{', of the oldest' if tenants.lag_is_sample else ''}"
    rows = [
        (
            each.tenant_id or NO_TENANT,
            str(each.partition),
            _count(each.entries, numbers, "bold"),
            _lag(each.lag_s, numbers),
        )
        for each in tenants.by_lag
    ]
    return table(title, ("tenant", "p", "entries", "lag"), rows or [("none", "", "", "")], left=2)


def _count(number: int, numbers: NumberFormat, style: str = "") -> Text:
    return Text(numbers.count(number), style=style if number else "dim")


def _lag(seconds: float, numbers: NumberFormat) -> Text:
    style = "bold red" if seconds > LAG_CRITICAL_S else "yellow" if seconds > LAG_WARNING_S else ""
    return Text(numbers.duration(seconds), style=style)


def _rate(per_s: float) -> Text:
    text = f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:,.1f}"
    return Text(text, style="cyan" if per_s else "dim")
