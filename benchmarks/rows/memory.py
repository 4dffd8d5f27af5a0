"""How much memory a worker uses while it drains a long backlog, and the API while it answers reads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import mean

from benchmarks.api_process import run_api
from benchmarks.drain_timing import projected_events, running_workers, wait_until_projected
from benchmarks.load_generator import generate_load
from benchmarks.row import BenchmarkRow, Contestants, Figures, Goal
from benchmarks.sandbox import Sandbox
from benchmarks.synthetic_log import SyntheticLog, database_with_read_models
from benchmarks.workloads import with_new_ids

_MIB = 2**20
_HISTORY = SyntheticLog(events=26_000, projects=100)
_LOADS = 10


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    def worker() -> Figures:
        sandbox.clear()
        backlog = _append_backlog(sandbox)
        sizes: list[float] = []

        def note_size() -> None:
            if projected_events(sandbox) > 0:
                sizes.append(process.memory_info().rss)

        with sandbox.database() as url, running_workers(sandbox, url) as (process,):
            wait_until_projected(sandbox, backlog, note_size)
        sandbox.clear()
        return _figures(sizes)

    def reader() -> Figures:
        sizes = []
        with database_with_read_models(sandbox, _HISTORY) as url, run_api(sandbox, url) as api:
            for _ in range(_LOADS):
                for random_requests in (api.random_stats, api.random_activity):
                    generate_load(api.port, random_requests(_HISTORY, _HISTORY.projects, sandbox.size.requests // 2))
                sizes.append(api.process.memory_info().rss)
        return _figures(sizes)

    yield {"worker": worker, "API": reader}


def _append_backlog(sandbox: Sandbox) -> int:
    """Append the standard mix several times, each time with other event ids. Returns the number of entries."""
    mix = sandbox.standard_mix
    times = max(1, sandbox.size.memory_events // len(mix))
    for generation in range(times):
        sandbox.append(with_new_ids(mix, generation))
    return times * len(mix)


def _figures(sizes: Sequence[float]) -> Figures:
    """Return the greatest size, and the last tenth divided by the second tenth. The first tenth fills caches."""
    tenth = max(1, len(sizes) // 10)
    return {"MiB": max(sizes) / _MIB, "growth": mean(sizes[-tenth:]) / mean(sizes[tenth : 2 * tenth])}


row = BenchmarkRow(
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
