"""How fast a worker drains a backlog on SQLite."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.drain_timing import timed_drain
from benchmarks.references.limit_log import limit_log
from benchmarks.row import BenchmarkRow, Contestants, Figures, Goal
from benchmarks.sandbox import Sandbox


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    backlog = sandbox.standard_mix

    def on_sqlite() -> Figures:
        with sandbox.sqlite() as url:
            return timed_drain(sandbox, backlog, url)

    yield {"SQLite": on_sqlite, "limit-log": limit_log(sandbox, backlog)}


row = BenchmarkRow(
    "sqlite",
    "the same backlog, one worker, SQLite",
    # This is 20,000 events/s on a machine where limit-log reaches 70,000.
    (Goal("events/s", "SQLite", "limit-log", at_least=0.286),),
    _contestants,
)
