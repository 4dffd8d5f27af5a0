"""A row of small bars, one for each stretch of time."""

from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"
ASCII_BARS = "_.:-=+*#"  # for terminals that show nothing else


def sparkline(counts: Sequence[int], cells: int, peak: float, bars: str = BARS) -> str:
    """Return `cells` bars for counts, a divisor of how many there are; `peak` is what a cell adds up to at full height.

    The lowest bar means none at all: whatever happened stands out from it.
    """
    return "".join(_bar(total, peak, bars) for total in totals(counts, cells))


def totals(counts: Sequence[int], cells: int) -> list[int]:
    """Return what each cell adds up to."""
    size = len(counts) // cells
    return [sum(counts[start : start + size]) for start in range(0, size * cells, size)]


def _bar(total: int, peak: float, bars: str) -> str:
    if not total:
        return bars[0]
    return bars[max(1, round(min(1.0, total / peak) * (len(bars) - 1)))]
