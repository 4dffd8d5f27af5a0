"""The report of a rebuild, a comparison or a verification: its totals, differences and failed tenants."""

import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import click

from cli.output import stdout, table
from event_stream.plurals import counted
from workers.maintenance.rebuild_results import SAMPLES_MAX, RowSample, TenantRebuild

VALUE_LENGTH_MAX = 60


@dataclass
class RebuildReport:
    """The totals so far. `tenants` counts those without an error; `pending` are left for another run."""

    dry_run: bool
    tenants_total: int
    tenants: int = 0
    events: int = 0
    pending: int = 0
    differed: dict[str, Counter[str]] = field(default_factory=dict)
    samples: list[RowSample] = field(default_factory=list)
    lock_held_s: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return max(0.001, time.monotonic() - self.started_s)

    def add(self, result: int | TenantRebuild) -> None:
        """Add the number of events of a page, or the result of a tenant."""
        if isinstance(result, int):
            self.events += result
        elif result.error is not None:
            self.failed[result.tenant_id] = result.error
        else:
            self.tenants += 1
            self.lock_held_s.append(result.lock_held_s)
            for name, counts in result.differed.items():
                self.differed.setdefault(name, Counter(dict.fromkeys(counts, 0))).update(counts)
            self.samples += result.samples[: SAMPLES_MAX - len(self.samples)]

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON object."""
        return {
            "dryRun": self.dry_run,
            "tenants": self.tenants,
            "events": self.events,
            "seconds": round(self.seconds, 3),
            "eventsPerSecond": round(self.events / self.seconds),
            "lockHeldMs": {
                "max": round(max(self.lock_held_s, default=0.0) * 1000, 3),
                "median": round(median(self.lock_held_s or [0.0]) * 1000, 3),
            },
            "readModels": self.differed,
            "samples": [_sample_as_json(sample) for sample in self.samples],
            "failed": [{"tenant": tenant_id, "error": error} for tenant_id, error in self.failed.items()],
            "pendingTenants": self.pending,
        }


def print_report(report: RebuildReport) -> None:
    """Print a report as text."""
    rate = f"{report.events / report.seconds:,.0f} events/s"
    verb = "compared" if report.dry_run else "rebuilt"
    tenants, events = counted(report.tenants, "tenant"), counted(report.events, "event")
    click.echo(f"{verb} {tenants}, {events} in {report.seconds:.1f} s ({rate})")
    if report.lock_held_s:
        longest_ms, median_ms = max(report.lock_held_s) * 1000, median(report.lock_held_s) * 1000
        click.echo(f"drains waited at most {longest_ms:.1f} ms for a tenant, {median_ms:.1f} ms in the median")
    kinds = ("missing", "extra", "changed")
    rows = [(name, *(counts[kind] for kind in kinds)) for name, counts in report.differed.items()]
    if rows:
        title = "Rows that differ from the event log" if report.dry_run else "Rows that differed and were repaired"
        stdout().print(table(title, ("read model", *kinds), rows))
    for sample in report.samples:
        click.echo(_sample_as_text(sample))
    for tenant_id, error in report.failed.items():
        click.echo(f"tenant {tenant_id} was not changed: {error}", err=True)
    if report.pending:
        click.echo(f"tenants left to rebuild: {report.pending:,}; run the same command again to continue", err=True)


def _sample_as_text(sample: RowSample) -> str:
    changes = "; ".join(f"{name} {_cut(stored)} -> {_cut(new)}" for name, (stored, new) in sample.columns.items())
    return f"{sample.kind}: {sample.read_model} {' '.join(map(str, sample.key))} {changes}".rstrip()


def _sample_as_json(sample: RowSample) -> dict[str, Any]:
    columns = {name: {"stored": stored, "rebuilt": new} for name, (stored, new) in sample.columns.items()}
    members = {"readModel": sample.read_model, "kind": sample.kind, "key": list(sample.key)}
    return members | ({"columns": columns} if columns else {})


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[: VALUE_LENGTH_MAX - 1]}…"
