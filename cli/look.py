"""How numbers look: short and coloured to a person at a terminal, in full to a pipe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.text import Text

from cli.sparkline import ASCII_BARS, BARS, sparkline, totals
from workers.rates import LATELY_S, Rate

LATE_S = 5.0
TOO_LATE_S = 60.0  # the alert ProjectorLags
_UNITS = ((86_400 * 2, 86_400, "d"), (3_600 * 2, 3_600, "h"), (120, 60, "min"))


@dataclass(frozen=True, slots=True)
class Look:
    """How counts, ages, rates and their history become text; `nothing` is where there is no value.

    `history` returns one text for each partition, and one for all.
    """

    count: Callable[[int], str]
    age_head: str
    age: Callable[[float], str]
    rate: Callable[[float], str]
    history_head: str
    history: Callable[[Sequence[Rate]], list[str]]
    nothing: str


def in_pipe() -> Look:
    """Return the look of a pipe: numbers only."""

    def history(rates: Sequence[Rate]) -> list[str]:
        lately = [rate.lately for rate in rates]
        return [f"{events / LATELY_S:,.1f}" for events in (*lately, sum(lately))]

    return Look(
        count=lambda number: f"{number:,}",
        age_head=" s",
        age=lambda seconds: f"{seconds:.1f}",
        rate=lambda per_s: f"{per_s:,.1f}",
        history_head="per s, 10 min",
        history=history,
        nothing="-",
    )


def at_terminal(cells: int, *, ascii_only: bool) -> Look:
    """Return the look of a terminal, with histories of so many bars."""
    bars = ASCII_BARS if ascii_only else BARS

    def history(rates: Sequence[Rate]) -> list[str]:
        # One scale for all, so that one sees which partition is the busy one.
        peak = max(max(totals(rate.history, cells)) for rate in rates)
        return [*(sparkline(rate.history, cells, peak, bars) for rate in rates), ""]

    return Look(short, "", age, short_rate, "last\n10 min", history, nothing="")


def short(number: int) -> str:
    """Return a number in at most seven characters."""
    for size, unit in ((10**12, "T"), (10**9, "G"), (10**6, "M")):
        if number >= size:
            return f"{number / size:,.1f}{unit}"
    return f"{number:,}"


def short_rate(per_s: float) -> str:
    """Return a rate with as many digits as tell something."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:,.1f}"


def age(seconds: float) -> str:
    """Return a time in its largest unit that leaves two digits."""
    for least, size, unit in _UNITS:
        if seconds >= least:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:.1f} s"


def of_lag(text: str, lag_s: float) -> Text:
    """Return text in the colour of a lag."""
    return Text(text, style="bold red" if lag_s > TOO_LATE_S else "yellow" if lag_s > LATE_S else "")


def unless_zero(number: int, text: str, style: str) -> Text:
    """Return text in a style where the number is not zero, and faint where it is."""
    return Text(text, style=style if number else "dim")
