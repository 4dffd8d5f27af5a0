"""`projector doctor`: report what endangers the guarantees, each finding with its remedy."""

import os
import sys
from contextlib import closing

import click

from cli import environment
from cli.output import print_json
from workers.doctor.check import Severity
from workers.doctor.context import Context
from workers.doctor.registry import CHECKS
from workers.doctor.runner import DoctorReport, run_checks

COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


@click.command()
@click.option("--verbose", is_flag=True, help="Also list the problems that were checked for.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(*, verbose: bool, as_json: bool) -> None:
    """Report what endangers the guarantees, each finding with its remedy.

    It changes nothing but a key in Redis that expires. It checks Redis, the database, the settings, and whether events
    reach the read models. The exit status is 1 if a guarantee is in danger (an error), else 0, even if there are
    warnings. docs/reference/doctor.md lists all codes.
    """
    environment.load()
    with closing(Context.from_environ(os.environ)) as context:
        report = run_checks(context)
    if as_json:
        print_json(report.model_dump())
    else:
        _print(report)
        if verbose:
            _print_checks(report)
    if report.has_errors:
        sys.exit(1)


def _print(report: DoctorReport) -> None:
    """Print a line for each finding, with colours on a terminal, and a summary."""
    for finding in report.findings:
        name = click.style(f"{finding.severity} {finding.guarantee or '-'} {finding.code}", COLOURS[finding.severity])
        click.echo(f"{name}: {finding.message} -> {finding.remedy}")
    click.secho(_summary(report), fg=COLOURS[Severity.ERROR] if report.has_errors else "green")
    if report.skipped:
        click.echo(f"Not checked: {', '.join(report.skipped)}.")


def _summary(report: DoctorReport) -> str:
    """Return the number of findings or, if there are none, the number of checks."""
    errors = sum(finding.severity == Severity.ERROR for finding in report.findings)
    warnings = len(report.findings) - errors
    if errors:
        return f"Errors: {errors}, warnings: {warnings}."
    if warnings:
        return f"No guarantee is in danger. Warnings: {warnings}."
    return f"No guarantee is in danger: {len(report.checked)} checks found nothing."


def _print_checks(report: DoctorReport) -> None:
    """Print the code and the meaning of every check that found nothing."""
    found = {finding.code for finding in report.findings}
    for check in CHECKS:
        if check.code in report.checked and check.code not in found:
            click.echo(f"  {check.code:<32} not found: {check.meaning}")
