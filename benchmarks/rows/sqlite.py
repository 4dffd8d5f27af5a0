"""Draining a backlog on SQLite."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.draining import timed_drain
from benchmarks.place import Place
from benchmarks.references.limit_log import limit_log
from benchmarks.row import Contestants, Figures, Goal, Row


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    backlog = place.standard_mix

    def on_sqlite() -> Figures:
        with place.sqlite() as url:
            return timed_drain(place, backlog, url)

    yield {"SQLite": on_sqlite, "limit-log": limit_log(place, backlog)}


row = Row(
    "sqlite",
    "the same backlog, one worker, SQLite",
    # 20,000 events/s where limit-log makes 70,000.
    (Goal("events/s", "SQLite", "limit-log", at_least=0.286),),
    _contestants,
)
