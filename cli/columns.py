"""Tables that fit: where a terminal is narrow, the columns that matter least stay out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its head, in which lines may break, and its cells. The higher its rank the sooner it goes, 0 never."""

    head: str
    cells: Sequence[Text]
    rank: int = 0
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        """How many characters it needs."""
        return max(*map(len, self.head.split("\n")), *(cell.cell_len for cell in self.cells), 1)


def words(head: str, texts: Iterable[object], rank: int = 0) -> Column:
    """Return a column of words. As text, not as markup: what producers write is shown as it is."""
    return Column(head, [text if isinstance(text, Text) else Text(str(text)) for text in texts], rank, "left")


def numbers(head: str, texts: Iterable[str | Text], rank: int = 0) -> Column:
    """Return a column of numbers."""
    return Column(head, [text if isinstance(text, Text) else Text(text) for text in texts], rank)


def width_of(columns: Sequence[Column], gap: int = 1) -> int:
    """Return how many characters a table of these columns needs."""
    return sum(column.width for column in columns) + gap * (len(columns) - 1)


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit into a width; those of rank 0 stay, even where they do not."""
    left = list(columns)
    while width_of(left) > width and any(column.rank for column in left):
        left.remove(max(left, key=lambda column: column.rank))
    return left


def framed(columns: Sequence[Column], width: int) -> Table:
    """Return a table for a terminal."""
    shown = fitting(columns, width)
    made = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0) if width_of(shown, gap=2) <= width else 0,
        header_style="dim",
        border_style="dim",
    )
    for column in shown:
        is_text = column.justify == "left"
        made.add_column(column.head, justify=column.justify, vertical="top", no_wrap=not is_text, overflow="ellipsis")
    return _filled(made, [column.cells for column in shown])


def plain(columns: Sequence[Column]) -> Table:
    """Return a table for a pipe: every column, no frame, no colour."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        head = column.head.replace("-\n", "").replace("\n", " ")
        made.add_column(head, justify=column.justify, no_wrap=True)
    return _filled(made, [[Text(cell.plain) for cell in column.cells] for column in columns])


def _filled(made: Table, cells: Sequence[Sequence[Text]]) -> Table:
    for row in zip(*cells, strict=True):
        made.add_row(*row)
    return made
