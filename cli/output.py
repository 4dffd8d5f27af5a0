"""The output of commands: tables and colours on a terminal, plain text in a pipe, JSON on request."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn
from rich.table import Table
from rich.text import Text

PLAIN_WIDTH = 240


class CliError(Exception):
    """A command cannot do its work. The message says why and what to do."""


def stdout() -> Console:
    """Return a console for results on stdout."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH, no_color=True)


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> Table:
    """Return a table. The first `left` columns are aligned to the left, the others to the right."""
    result = Table(
        title=title,
        title_justify="left",
        title_style="bold cyan",
        header_style="dim",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        min_width=len(title),
    )
    for index, header in enumerate(headers):
        result.add_column(header, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        result.add_row(*(_cell(value) for value in row))
    return result


def progress_bar() -> Progress:
    """Return a progress bar on stderr. It shows nothing if stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), *Progress.get_default_columns())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _cell(value: object) -> Text:
    """Return a value as text. Rich's markup is not interpreted, because producers may have written the value."""
    if isinstance(value, Text):
        return value
    return Text(f"{value:,}" if isinstance(value, int) else str(value))
