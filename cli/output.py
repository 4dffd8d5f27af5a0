"""How commands speak: tables and colours to a person, plain text to a pipe, JSON to a machine."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
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
    plain = not sys.stdout.isatty()
    made = Table(title=title, title_justify="left", box=None if plain else Table().box, pad_edge=not plain)
    for index, header in enumerate(headers):
        made.add_column(header, justify="left" if index < left else "right", overflow="fold")
    for row in rows:
        # As text, not as markup: what producers write is shown as it is.
        made.add_row(*(Text(f"{cell:,}" if isinstance(cell, int) else str(cell)) for cell in row))
    return made


def progress_bar() -> Progress:
    """Return a progress bar on stderr; in a pipe it shows nothing."""
    console = Console(stderr=True)
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_json(value: Any) -> None:
    """Print a result for a machine."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))
