"""`projector doctor`: report what endangers the guarantees, each finding with its remedy."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing

import click

from cli import environment
from cli.output import print_json
from workers.doctor.check import Severity
from workers.doctor.context import Context
from workers.doctor.registry import CHECKS
from workers.doctor.runner import DoctorReport, run_checks

COLOURS = {Severity.DANGER: "red", Severity.ADVICE: "yellow"}


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
    else:
        _print(report)
    if report.has_danger:
        sys.exit(1)


def _print(report: DoctorReport) -> None:
    """Print a line for each finding, with colours on a terminal, and a summary."""
    for finding in report.findings:
        name = click.style(f"{finding.severity} {finding.guarantee or '-'} {finding.code}", COLOURS[finding.severity])
        click.echo(f"{name}: {finding.message} -> {finding.remedy}")
    for line in _summary(report):
        click.secho(line, fg=COLOURS[Severity.DANGER] if report.has_danger else "green")


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
