"""How fast a worker drains skewed backlogs: one hot project, and very many projects."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks import workloads
from benchmarks.drain_timing import measure_drain
from benchmarks.row import BenchmarkRow, Contestants, Goal
from benchmarks.sandbox import Sandbox


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    size = sandbox.size
    hot_project = workloads.stream_entries(workloads.one_hot_project(size.events))
    many_projects = workloads.stream_entries(workloads.many_projects(size.events, size.many_projects))
    yield {
        "hot project": measure_drain(sandbox, hot_project),
        "standard mix": measure_drain(sandbox, sandbox.standard_mix),
        "many projects": measure_drain(sandbox, many_projects),
    }


row = BenchmarkRow(
    "skew",
    "half of all events of one project; 100,000 projects touched evenly",
    (
        Goal("events/s", "hot project", "standard mix", at_least=0.8),
        Goal("events/s", "many projects", "standard mix", at_least=0.6),
    ),
    _contestants,
)
