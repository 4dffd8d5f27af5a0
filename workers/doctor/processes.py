"""Checks whether a dispatcher and a worker are alive."""

from collections.abc import Iterator

from workers.doctor.check import Observation, Subject, error_check
from workers.doctor.context import Context
from workers.reporting import problems


@error_check(
    "dispatcher-missing",
    Subject.STATUS,
    "G7",
    meaning="No dispatcher sends heartbeats. No drain is enqueued, and no stream is trimmed.",
    remedy="start `projector dispatcher`",
)
def dispatcher_missing(context: Context) -> Iterator[Observation]:
    """Check whether a dispatcher is alive."""
    yield from map(Observation, problems.missing_dispatcher(context.status))


@error_check(
    "worker-missing",
    Subject.STATUS,
    "G7",
    meaning="No worker sends heartbeats, so nothing is drained.",
    remedy="start `projector worker`",
)
def worker_missing(context: Context) -> Iterator[Observation]:
    """Check whether a worker is alive."""
    yield from map(Observation, problems.missing_worker(context.status))
