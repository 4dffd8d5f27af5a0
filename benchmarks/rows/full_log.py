"""How fast a worker drains into a long event log, with time-ordered and with random event ids."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.drain_timing import measure_drain, timed_drain
from benchmarks.row import BenchmarkRow, Contestants, Figures, Goal, Measurement
from benchmarks.sandbox import Sandbox
from benchmarks.synthetic_log import SyntheticLog, database_with_log
from benchmarks.workloads import BacklogEntry, with_time_ordered_ids


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    random = sandbox.standard_mix
    ordered = with_time_ordered_ids(random)
    with database_with_log(sandbox, SyntheticLog(sandbox.size.log_rows, projects=1000)) as template:

        def drain_into_full_log(backlog: list[BacklogEntry]) -> Measurement:
            def measure() -> Figures:
                with sandbox.database(template) as url:
                    return timed_drain(sandbox, backlog, url)

            return measure

        yield {
            "full log": drain_into_full_log(ordered),
            "empty log": measure_drain(sandbox, ordered),
            "full log, random ids": drain_into_full_log(random),
            "empty log, random ids": measure_drain(sandbox, random),
        }


row = BenchmarkRow(
    "full-log",
    "the same backlog, with a million rows in the log (--large: ten million)",
    (
        Goal("events/s", "full log", "empty log", at_least=0.85),
        Goal("events/s", "full log, random ids", "empty log, random ids", at_least=0.85),
    ),
    _contestants,
)
