"""Draining backlogs unlike the standard mix: one hot project, very many projects."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import mixes
from benchmarks.draining import drain
from benchmarks.place import Place
from benchmarks.row import Contestants, Goal, Row


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    size = place.size
    yield {
        "hot project": drain(place, mixes.entries(mixes.hot(size.events))),
        "standard mix": drain(place, place.standard_mix),
        "many projects": drain(place, mixes.entries(mixes.spread(size.events, size.many_projects))),
    }


row = Row(
    "skew",
    "half of all events of one project; 100,000 projects touched evenly",
    (
        Goal("events/s", "hot project", "standard mix", at_least=0.8),
        Goal("events/s", "many projects", "standard mix", at_least=0.6),
    ),
    _contestants,
)
