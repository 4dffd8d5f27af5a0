"""Draining into a log that is long already."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.draining import drain, timed_drain
from benchmarks.history import History, log_only
from benchmarks.place import Place
from benchmarks.row import Contestants, Figures, Goal, Row


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    backlog = place.standard_mix
    with log_only(place, History(place.size.log_rows, projects=1000)) as template:

        def into_full_log() -> Figures:
            with place.database(template) as url:
                return timed_drain(place, backlog, url)

        yield {"full log": into_full_log, "empty log": drain(place, backlog)}


row = Row(
    "full-log",
    "the same backlog, with a million rows in the log (--large: ten million)",
    (Goal("events/s", "full log", "empty log", at_least=0.85),),
    _contestants,
)
