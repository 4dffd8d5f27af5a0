"""`projector doctor`: report what endangers the guarantees, each finding with its remedy."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cli import environment
from cli.output import print_json, stdout
from workers.doctor.check import Finding, Severity
from workers.doctor.context import Context
from workers.doctor.registry import CHECKS
from workers.doctor.runner import DoctorReport, run_checks

COLOURS = {Severity.DANGER: "bold red", Severity.ADVICE: "yellow"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(as_json: bool) -> None:
    """Report what endangers the guarantees, each finding with its remedy. Changes nothing.

    It checks Redis, the database, the settings, and whether events reach the read models. The exit status is 1 if a
    guarantee is in danger, else 0, even if there is advice. docs/reference/doctor.md lists all codes.
    """
    environment.load()
    with closing(Context.from_environ(os.environ)) as context:
        report = run_checks(context)
    if as_json:
        print_json(report.model_dump())
    elif sys.stdout.isatty():
        stdout().print(_for_terminal(report))
    else:
        click.echo("\n".join(_as_lines(report)))
    if report.has_danger:
        sys.exit(1)


def _for_terminal(report: DoctorReport) -> RenderableType:
    """Return the report as a coloured table with a summary."""
    parts: list[RenderableType] = []
    if report.findings:
        parts += [_table(report.findings), Text()]
    style = COLOURS[Severity.DANGER] if report.has_danger else "green"
    return Group(*parts, *(Text(line, style=style) for line in _summary(report)))


def _table(findings: list[Finding]) -> Table:
    table = Table(title="Findings", title_justify="left", show_lines=True)
    for header in ("finding", "problem", "remedy"):
        table.add_column(header, overflow="fold")
    for finding in findings:
        name = f"{finding.severity} {finding.guarantee or ''}\n{finding.code}"
        table.add_row(Text(name, style=COLOURS[finding.severity]), Text(finding.message), Text(finding.remedy))
    return table


def _as_lines(report: DoctorReport) -> Iterator[str]:
    """Yield the report as plain lines, one for each finding."""
    for finding in report.findings:
        yield f"{finding.severity} {finding.guarantee or '-'} {finding.code}: {finding.message} -> {finding.remedy}"
    yield from _summary(report)


def _summary(report: DoctorReport) -> Iterator[str]:
    """Yield the number of findings or, if there are none, the problems that were checked for."""
    dangers = sum(finding.severity == Severity.DANGER for finding in report.findings)
    advice = len(report.findings) - dangers
    if dangers:
        yield f"Dangers: {dangers}, advice: {advice}."
    elif advice:
        yield f"No guarantee is in danger. Advice: {advice}."
    else:
        yield "No guarantee is in danger. None of these problems was found:"
        yield from (f"  {check.code:<32} {check.meaning}" for check in CHECKS if check.code in report.checked)
    if report.skipped:
        yield f"Not checked: {', '.join(report.skipped)}."
