"""Draining into a log that is long already: events with ids in order of time, and with random ones."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.draining import drain, timed_drain
from benchmarks.history import History, log_only
from benchmarks.mixes import Entry, in_order
from benchmarks.place import Place
from benchmarks.row import Contestants, Figures, Goal, Measure, Row


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    random = place.standard_mix
    ordered = in_order(random)
    with log_only(place, History(place.size.log_rows, projects=1000)) as template:

        def into_full_log(backlog: list[Entry]) -> Measure:
            def measure() -> Figures:
                with place.database(template) as url:
                    return timed_drain(place, backlog, url)

            return measure

        yield {
            "full log": into_full_log(ordered),
            "empty log": drain(place, ordered),
            "full log, random ids": into_full_log(random),
            "empty log, random ids": drain(place, random),
        }


row = Row(
    "full-log",
    "the same backlog, with a million rows in the log (--large: ten million)",
    (
        Goal("events/s", "full log", "empty log", at_least=0.85),
        Goal("events/s", "full log, random ids", "empty log, random ids", at_least=0.85),
    ),
    _contestants,
)
