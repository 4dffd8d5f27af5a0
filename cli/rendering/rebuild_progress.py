"""The progress of a rebuild: a bar on a terminal, a line every few seconds in a pipe."""

import time
from typing import Self

import click

from cli.output import print_json, progress_bar
from cli.rendering.rebuild_report import RebuildReport, print_report
from workers.maintenance.rebuild_run import RebuildRun

LINE_EVERY_S = 5.0


class RebuildProgress:
    """Shows the progress on stderr while its block is open."""

    def __init__(self, report: RebuildReport, events_total: int) -> None:
        self._report = report
        self._events_total = events_total
        self._bar = progress_bar()
        self._task = self._bar.add_task("", total=events_total)
        self._line_printed_s = time.monotonic()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self) -> None:
        """Show the report's present totals."""
        report = self._report
        rate = report.events / report.seconds
        text = f"{report.tenants:,} of {report.tenants_total:,} tenants, {rate:,.0f} events/s"
        self._bar.update(self._task, completed=report.events, description=text)
        if self._bar.disable and time.monotonic() - self._line_printed_s > LINE_EVERY_S:
            self._line_printed_s = time.monotonic()
            left_s = max(0, self._events_total - report.events) / max(rate, 1.0)
            events = f"{report.events:,} of {self._events_total:,} events"
            click.echo(f"{text}, {events}, about {left_s:.0f} s left", err=True)


def show_run(run: RebuildRun, report: RebuildReport, events_total: int, processes: int, as_json: bool) -> None:
    """Run a rebuild, show its progress, and print its report, also if the run ends with an error."""
    try:
        with run.results(processes) as results, RebuildProgress(report, events_total) as progress:
            for result in results:
                report.add(result)
                progress.update()
    finally:
        report.pending = run.count_pending(report.tenants)
        if as_json:
            print_json(report.as_json())
        else:
            print_report(report)
