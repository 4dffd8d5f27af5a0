"""`projector doctor`: what in Redis, database, settings and processes endangers the promises, each with its remedy."""

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
from workers.doctor.runner import Examination, examine

COLOURS = {Severity.DANGER: "bold red", Severity.ADVICE: "yellow"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def doctor(as_json: bool) -> None:
    """Say what endangers the promises, each with its remedy; changes nothing.

    Looks at Redis, the database, the settings, and whether events reach the read models. Exit 1 if a promise is in
    danger; advice alone is exit 0. docs/reference/doctor.md lists the codes.
    """
    environment.load()
    with closing(Context.from_environ(os.environ)) as patient:
        examination = examine(patient)
    if as_json:
        print_json(examination.model_dump())
    elif sys.stdout.isatty():
        stdout().print(_shown(examination))
    else:
        click.echo("\n".join(_lines(examination)))
    if examination.in_danger:
        sys.exit(1)


def _shown(examination: Examination) -> RenderableType:
    """Return the examination for a person."""
    parts: list[RenderableType] = []
    if examination.findings:
        parts += [_table(examination.findings), Text()]
    style = COLOURS[Severity.DANGER] if examination.in_danger else "green"
    return Group(*parts, *(Text(line, style=style) for line in _verdict(examination)))


def _table(findings: list[Finding]) -> Table:
    table = Table(title="Findings", title_justify="left", show_lines=True)
    for header in ("finding", "what is so", "remedy"):
        table.add_column(header, overflow="fold")
    for each in findings:
        name = f"{each.severity} {each.guarantee or ''}\n{each.code}"
        table.add_row(Text(name, style=COLOURS[each.severity]), Text(each.message), Text(each.remedy))
    return table


def _lines(examination: Examination) -> Iterator[str]:
    """Yield the examination as plain lines, one a finding."""
    for each in examination.findings:
        yield f"{each.severity} {each.guarantee or '-'} {each.code}: {each.message} -> {each.remedy}"
    yield from _verdict(examination)


def _verdict(examination: Examination) -> Iterator[str]:
    """Yield what it comes to, and what it rests on."""
    dangers = sum(each.severity == Severity.DANGER for each in examination.findings)
    advice = len(examination.findings) - dangers
    if dangers:
        yield f"Dangers: {dangers}, advice: {advice}."
    elif advice:
        yield f"Nothing endangers the promises; advice: {advice}."
    else:
        yield "Nothing endangers the promises. None of these is so:"
        yield from (f"  {check.code:<32} {check.means}" for check in CHECKS if check.code in examination.checked)
    if examination.skipped:
        yield f"Not checked: {', '.join(examination.skipped)}."
