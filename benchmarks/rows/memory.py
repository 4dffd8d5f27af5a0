"""What a worker keeps in memory while it drains a long backlog, and the API while it answers."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from benchmarks.asking import api
from benchmarks.draining import await_projected, projected, ready
from benchmarks.history import History, with_read_models
from benchmarks.load import put_load
from benchmarks.mixes import renumbered
from benchmarks.place import Place
from benchmarks.row import Contestants, Figures, Goal, Row

_MIB = 2**20
_HISTORY = History(events=26_000, projects=100)
_LOADS = 10


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    def worker() -> Figures:
        place.clear()
        backlog = _append_backlog(place)
        sizes: list[float] = []

        def look() -> None:
            if projected(place) > 0:
                sizes.append(process.memory_info().rss)

        with place.database() as url, ready(place, url) as (process,):
            await_projected(place, backlog, look)
        place.clear()
        return _figures(sizes)

    def reader() -> Figures:
        sizes = []
        with with_read_models(place, _HISTORY) as url, api(place, url) as asked:
            for _ in range(_LOADS):
                for random_requests in (asked.random_stats, asked.random_activity):
                    put_load(asked.port, random_requests(_HISTORY, _HISTORY.projects, place.size.requests // 2))
                sizes.append(asked.process.memory_info().rss)
        return _figures(sizes)

    yield {"worker": worker, "API": reader}


def _append_backlog(place: Place) -> int:
    """Append the standard mix again and again, each time with other ids; returns how many entries there are."""
    mix = place.standard_mix
    times = max(1, place.size.backlog // len(mix))
    for generation in range(times):
        place.append(renumbered(mix, generation))
    return times * len(mix)


def _figures(sizes: Sequence[float]) -> Figures:
    """Return the greatest size, and the last tenth beside the second: the first one fills caches."""
    tenth = max(1, len(sizes) // 10)
    return {"MiB": max(sizes) / _MIB, "growth": mean(sizes[-tenth:]) / mean(sizes[tenth : 2 * tenth])}


row = Row(
    "memory",
    "memory of a worker over 300,000 events (--large: a million), and of the API over 100,000 requests",
    (
        Goal("MiB", "worker", at_most=150),
        Goal("growth", "worker", at_most=1.05),
        Goal("MiB", "API", at_most=150),
        Goal("growth", "API", at_most=1.05),
    ),
    _contestants,
    rounds=1,
)
