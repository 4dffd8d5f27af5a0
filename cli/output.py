"""How commands speak: tables and colours to a person, plain text to a pipe, JSON to a machine."""

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
    """A command cannot do what it was asked to; the message says why and what to do."""


def stdout() -> Console:
    """Return a console for results."""
    return Console() if sys.stdout.isatty() else Console(width=PLAIN_WIDTH, no_color=True)


def table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> Table:
    """Return a table whose first `left` columns are text and the others numbers."""
    made = Table(
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
        made.add_column(header, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(_cell(value) for value in row))
    return made


def _cell(value: object) -> Text:
    """Return a value as text, never as markup: what producers wrote is shown unchanged."""
    if isinstance(value, Text):
        return value
    return Text(f"{value:,}" if isinstance(value, int) else str(value))


def progress_bar() -> Progress:
    """Return a progress bar on stderr; in a pipe it shows nothing."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), *Progress.get_default_columns())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def print_json(value: Any) -> None:
    """Print a result for a machine."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
