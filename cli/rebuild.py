"""`projector rebuild`: read models recomputed from the event log, while everything else goes on."""

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self

import click
from sqlalchemy import Connection, Engine

from cli import environment
from cli.database import open_reader, open_writer
from cli.output import print_json, progress_bar, stdout, table
from event_stream.envelope import time_text
from event_stream.settings import StreamSettings
from projections import checkpoint, due, event_log
from projections.due import Asked
from projections.projection import Projection
from projections.rebuild import Difference
from projections.registry import PROJECTIONS
from projections.store import Row
from workers.rebuild import Outcome, Rebuilder

SAMPLES_MAX = 10
TENANTS_NAMED_MAX = 20
VALUE_LENGTH_MAX = 60
LINE_EVERY_S = 5.0


@click.command()
@click.option(
    "--projection", type=click.Choice([projection.name for projection in PROJECTIONS]), help="Only this read model."
)
@click.option("--tenant", help="Only this tenant.")
@click.option("--dry-run", is_flag=True, help="Show which rows would change, and change nothing.")
@click.option("--restart", is_flag=True, help="Begin anew where the same rebuild was begun before and not ended.")
@click.option("--timeout", default=600.0, show_default=True, help="Give up after an outage of so many seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def rebuild(
    projection: str | None, tenant: str | None, dry_run: bool, restart: bool, timeout: float, as_json: bool
) -> None:
    """Recompute read models from the event log.

    Producers, workers and readers go on meanwhile: readers see the rows from before or from after, tenant by tenant.
    Only rows that differ are written. If it ends early, the same command goes on where it stopped.
    """
    environment.load()
    asked = Asked(projection, tenant)
    chosen = [each for each in PROJECTIONS if projection in (None, each.name)]
    writer, reader = open_writer(), open_reader()
    partitions = StreamSettings.from_environ(os.environ).partitions
    with reader.connect() as connection:
        applied = sum(at.applied for at in checkpoint.read_all(connection, partitions))
        tenants = _tenants(connection, chosen, tenant)
        work = dict.fromkeys(tenants, frozenset(each.name for each in chosen)) if dry_run else {}
    if not dry_run:
        work = _due(writer, asked, chosen, tenants, restart=restart)
    with reader.connect() as connection:
        total = applied if len(work) == len(tenants) and not tenant else _count(connection, work)
    report = Report(dry_run, len(work))
    try:
        with Watch(report, total) as watch:
            rebuilder = Rebuilder(writer, reader, partitions, chosen, timeout, watch.on_page)
            outcomes = _compared(rebuilder, work) if dry_run else rebuilder.rebuild_due(asked, work)
            for outcome in outcomes:
                report.add(outcome)
                watch.show()
    finally:
        report.due = 0 if dry_run else _still_due(reader, asked)
        report.show(as_json)
    if report.failed or report.due:
        sys.exit(1)


def _tenants(connection: Connection, projections: Sequence[Projection], tenant: str | None) -> list[str]:
    """Return the tenants to rebuild; raises UsageError, naming those that there are, if the one asked for is none."""
    tenants = due.tenants_in(connection, projections)
    if tenant is None:
        return tenants
    if tenant not in tenants:
        named = ", ".join(tenants[:TENANTS_NAMED_MAX]) or "none"
        more = len(tenants) - TENANTS_NAMED_MAX
        raise click.BadParameter(
            f"{tenant!r} has no events; tenants: {named}{f' and {more:,} more' if more > 0 else ''}",
            param_hint="--tenant",
        )
    return [tenant]


def _due(
    writer: Engine, asked: Asked, projections: Sequence[Projection], tenants: Sequence[str], *, restart: bool
) -> dict[str, frozenset[str]]:
    """Return what is due of the rebuild asked for, by tenant: what the last one left, or else all of it."""
    with writer.begin() as connection:
        since_us = due.since_us(connection, asked)
        if since_us is None or restart:
            due.plan(connection, asked, projections, tenants, time.time_ns() // 1000)
        work = due.read(connection, asked)
    if since_us is not None and not restart:
        click.echo(
            f"going on with what was begun at {time_text(since_us)}: {len(work):,} tenants are still due"
            " (--restart begins anew)",
            err=True,
        )
    return work


def _count(connection: Connection, tenants: Iterable[str]) -> int:
    return sum(event_log.count_of(connection, tenant_id) for tenant_id in tenants)


def _still_due(reader: Engine, asked: Asked) -> int:
    with reader.connect() as connection:
        return len(due.read(connection, asked))


def _compared(rebuilder: Rebuilder, work: dict[str, frozenset[str]]) -> Iterator[Outcome]:
    for tenant_id, names in work.items():
        yield rebuilder.compare(tenant_id, names)


@dataclass
class Report:
    """What became of the tenants so far."""

    dry_run: bool
    tenants_total: int
    tenants: int = 0
    events: int = 0
    due: int = 0
    differed: dict[str, Counter[str]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    held_s: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has taken until now."""
        return max(0.001, time.monotonic() - self.began_s)

    def add(self, outcome: Outcome) -> None:
        """Count what became of one tenant."""
        if outcome.replaced is None:
            self.failed[outcome.tenant_id] = outcome.error or ""
            return
        self.tenants += 1
        self.held_s.append(outcome.replaced.held_s)
        for difference in outcome.replaced.differences:
            counts = self.differed.setdefault(difference.table.name, Counter(missing=0, extra=0, changed=0))
            counts.update(missing=len(difference.missing), extra=len(difference.extra), changed=len(difference.changed))
            room = SAMPLES_MAX - len(self.samples)
            self.samples += [_shown(difference, *pair) for pair in _pairs(difference, room)]

    def show(self, as_json: bool) -> None:
        """Print the outcome."""
        if as_json:
            print_json(self._plain())
            return
        rate = f"{self.events / self.seconds:,.0f} events/s"
        did = "compared" if self.dry_run else "rebuilt"
        click.echo(f"{did} {self.tenants:,} tenants, {self.events:,} events in {self.seconds:.1f} s ({rate})")
        if self.held_s:
            longest_ms, usual_ms = max(self.held_s) * 1000, median(self.held_s) * 1000
            click.echo(
                f"drains of a tenant's partition waited at most {longest_ms:.1f} ms, {usual_ms:.1f} ms in the median"
            )
        heads = ("read model", "missing", "extra", "changed")
        rows = [(name, *(counts[head] for head in heads[1:])) for name, counts in self.differed.items()]
        if rows:
            title = "Rows that differ from the event log" if self.dry_run else "Rows that differed, and are mended"
            stdout().print(table(title, heads, rows))
        for sample in self.samples:
            click.echo(_line(sample))
        for tenant_id, error in self.failed.items():
            click.echo(f"tenant {tenant_id} is as it was: {error}", err=True)
        if self.due:
            click.echo(f"{self.due:,} tenants are still due; the same command goes on", err=True)

    def _plain(self) -> dict[str, Any]:
        return {
            "dryRun": self.dry_run,
            "tenants": self.tenants,
            "events": self.events,
            "seconds": round(self.seconds, 3),
            "eventsPerSecond": round(self.events / self.seconds),
            "heldMs": {
                "max": round(max(self.held_s, default=0.0) * 1000, 3),
                "median": round(median(self.held_s or [0.0]) * 1000, 3),
            },
            "readModels": self.differed,
            "samples": self.samples,
            "failed": [{"tenant": tenant_id, "error": error} for tenant_id, error in self.failed.items()],
            "due": self.due,
        }


class Watch:
    """Shows how far it is: a bar on a terminal, a line now and then in a pipe."""

    def __init__(self, report: Report, total: int) -> None:
        self._report = report
        self._total = total
        self._progress = progress_bar()
        self._task = self._progress.add_task("rebuilding", total=total)
        self._line_s = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def on_page(self, events: int) -> None:
        """Count the events of a page."""
        self._report.events += events
        self.show()

    def show(self) -> None:
        """Bring what is shown up to date."""
        report = self._report
        rate = report.events / report.seconds
        text = f"{report.tenants:,} of {report.tenants_total:,} tenants, {rate:,.0f} events/s"
        self._progress.update(self._task, completed=report.events, description=text)
        if self._progress.disable and time.monotonic() - self._line_s > LINE_EVERY_S:
            self._line_s = time.monotonic()
            left_s = max(0, self._total - report.events) / max(rate, 1.0)
            click.echo(f"{text}, {report.events:,} of {self._total:,} events, about {left_s:.0f} s left", err=True)


def _pairs(difference: Difference, limit: int) -> list[tuple[Row | None, Row | None]]:
    """Return up to `limit` differences of each kind in turn, as stored and as rebuilt."""
    missing: list[tuple[Row | None, Row | None]] = [(None, row) for row in difference.missing[:limit]]
    extra: list[tuple[Row | None, Row | None]] = [(row, None) for row in difference.extra[:limit]]
    return [*missing, *extra, *difference.changed[:limit]][:limit]


def _shown(difference: Difference, stored: Row | None, rebuilt: Row | None) -> dict[str, Any]:
    """Return one difference: the row's key, and where both exist the columns in which they differ."""
    names = difference.table.columns.keys()
    key = [str(value) for value in (stored or rebuilt or ())[: len(difference.table.primary_key.columns)]]
    shown: dict[str, Any] = {"readModel": difference.table.name, "key": key}
    if stored is None or rebuilt is None:
        return shown | {"kind": "missing" if stored is None else "extra"}
    both = zip(names, stored, rebuilt, strict=True)
    columns = {name: {"stored": old, "rebuilt": new} for name, old, new in both if old != new}
    return shown | {"kind": "changed", "columns": columns}


def _line(sample: dict[str, Any]) -> str:
    changes = "; ".join(
        f"{name} {_cut(values['stored'])} -> {_cut(values['rebuilt'])}"
        for name, values in sample.get("columns", {}).items()
    )
    return f"{sample['kind']}: {sample['readModel']} {' '.join(sample['key'])} {changes}".rstrip()


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[: VALUE_LENGTH_MAX - 1]}…"
