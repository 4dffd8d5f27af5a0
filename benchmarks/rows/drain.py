"""How fast one worker and two workers drain a backlog on PostgreSQL."""

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.drain_timing import measure_drain
from benchmarks.references.afternoon import afternoon
from benchmarks.references.job_per_event import job_per_event
from benchmarks.references.limit_log import limit_log
from benchmarks.row import BenchmarkRow, Contestants, Goal
from benchmarks.sandbox import Sandbox


@contextmanager
def _one_worker(sandbox: Sandbox) -> Iterator[Contestants]:
    backlog = sandbox.standard_mix
    yield {
        "one worker": measure_drain(sandbox, backlog),
        "limit-log": limit_log(sandbox, backlog),
        "afternoon": afternoon(sandbox, backlog),
        "job-per-event": job_per_event(sandbox, backlog),
    }


@contextmanager
def _two_workers(sandbox: Sandbox) -> Iterator[Contestants]:
    backlog = sandbox.standard_mix
    yield {
        "two workers": measure_drain(sandbox, backlog, workers=2),
        "one worker": measure_drain(sandbox, backlog),
    }


one_worker = BenchmarkRow(
    "drain",
    "a backlog, one worker, PostgreSQL, 1,000 projects of 20 tenants",
    (
        Goal("events/s", "one worker", "limit-log", at_least=0.5, stretch=0.6),
        Goal("events/s", "one worker", "job-per-event", at_least=200),
        Goal("events/s", "one worker", "afternoon", at_least=2, stretch=2.5),
    ),
    _one_worker,
)
two_workers = BenchmarkRow(
    "two-workers",
    "the same backlog, two workers",
    (Goal("events/s", "two workers", "one worker", at_least=1.4),),
    _two_workers,
)
