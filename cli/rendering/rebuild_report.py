"""What became of a rebuild, or of a comparison: counted as it comes, shown while it lasts, told at the end."""

import time
from collections import Counter
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Self

import click

from cli.output import print_json, progress_bar, stdout, table
from workers.maintenance.rebuild_tenants import SAMPLES_MAX, Sample, TenantRebuild

VALUE_LENGTH_MAX = 60
LINE_EVERY_S = 5.0


@dataclass
class Report:
    """What became of the tenants so far."""

    dry_run: bool
    tenants_total: int
    tenants: int = 0
    events: int = 0
    due: int = 0
    differed: dict[str, Counter[str]] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list)
    held_s: list[float] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """How long it has taken until now."""
        return max(0.001, time.monotonic() - self.began_s)

    def add(self, each: int | TenantRebuild) -> None:
        """Count a page's events, or what became of one tenant."""
        if isinstance(each, int):
            self.events += each
        elif each.error is not None:
            self.failed[each.tenant_id] = each.error
        else:
            self.tenants += 1
            self.held_s.append(each.held_s)
            for name, counts in each.differed.items():
                self.differed.setdefault(name, Counter(dict.fromkeys(counts, 0))).update(counts)
            self.samples += each.samples[: SAMPLES_MAX - len(self.samples)]

    def show(self, as_json: bool) -> None:
        """Print the outcome."""
        if as_json:
            print_json(self.plain())
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
            click.echo(f"tenants still due: {self.due:,}; the same command goes on", err=True)

    def plain(self) -> dict[str, Any]:
        """Return the outcome as JSON shows it."""
        return {
            "dryRun": self.dry_run,
            "tenants": self.tenants,
            "events": self.events,
            "seconds": round(self.seconds, 3),
            "eventsPerSecond": round(self.events / self.seconds),
            "lockHeldMs": {
                "max": round(max(self.held_s, default=0.0) * 1000, 3),
                "median": round(median(self.held_s or [0.0]) * 1000, 3),
            },
            "readModels": self.differed,
            "samples": [_plain(sample) for sample in self.samples],
            "failed": [{"tenant": tenant_id, "error": error} for tenant_id, error in self.failed.items()],
            "pendingTenants": self.due,
        }


class Watch:
    """Shows how far it is: a bar on a terminal, a line now and then in a pipe."""

    def __init__(self, report: Report, total: int) -> None:
        self._report = report
        self._total = total
        self._progress = progress_bar()
        self._task = self._progress.add_task("", total=total)
        self._line_s = time.monotonic()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

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


def _line(sample: Sample) -> str:
    changes = "; ".join(f"{name} {_cut(stored)} -> {_cut(new)}" for name, (stored, new) in sample.columns.items())
    return f"{sample.kind}: {sample.read_model} {' '.join(map(str, sample.key))} {changes}".rstrip()


def _plain(sample: Sample) -> dict[str, Any]:
    columns = {name: {"stored": stored, "rebuilt": new} for name, (stored, new) in sample.columns.items()}
    plain = {"readModel": sample.read_model, "kind": sample.kind, "key": list(sample.key)}
    return plain | ({"columns": columns} if columns else {})


def _cut(value: object) -> str:
    text = repr(value)
    return text if len(text) <= VALUE_LENGTH_MAX else f"{text[: VALUE_LENGTH_MAX - 1]}…"
