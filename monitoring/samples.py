"""Builds the samples of metrics from the parts of a snapshot."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from event_stream.errors import Reason
from monitoring.definition import HistogramValue, Samples, Value
from projections.transaction.dead_letter_counts import OpenCount
from workers.reporting.status import PartitionStatus, ProcessStatus, Status
from workers.reporting.status_reader import DatabaseState, RedisState
from workers.telemetry.batch_metrics import BatchMetrics, Histogram

N = TypeVar("N", bound=float)

RUN_LENGTH = 8


def single(value: Value) -> Samples:
    """Return the one sample of a metric without labels."""
    return [((), value)]


def by_label(values: Mapping[str, N]) -> Samples:
    """Return a sample for each value of a metric with one label."""
    return [((label,), value) for label, value in values.items()]


def by_partition(value: Callable[[PartitionStatus], float]) -> Callable[[Status], Samples]:
    """Return the function that reads a value of each partition from a status."""
    return lambda status: [((str(partition.partition),), value(partition)) for partition in status.partitions]


def open_dead_letters(value: Callable[[OpenCount], int]) -> Callable[[DatabaseState], Samples]:
    """Return the function that reads a value of each reason from the counts of open dead letters."""
    return lambda database: [
        ((reason.value,), value(database.open_dead_letters.get(reason.value, OpenCount(0, 0)))) for reason in Reason
    ]


def histogram(batches: BatchMetrics, counted: Histogram, per_unit: float = 1) -> Samples:
    """Return the sample of a histogram of whole numbers, converted to the metric's unit: `per_unit` make one."""
    bounds = [bound / per_unit for bound in counted.buckets.bounds]
    return [((_run(batches),), HistogramValue(bounds, counted.counts, counted.sum / per_unit))]


def by_label_and_run(batches: BatchMetrics, values: Mapping[str, int]) -> Samples:
    """Return a sample for each value of a metric with one label and the label `redis_run`."""
    return [((label, _run(batches)), value) for label, value in values.items()]


def _run(batches: BatchMetrics) -> str:
    return batches.redis_run[:RUN_LENGTH]


def process_counts(redis: RedisState) -> Samples:
    """Yield the number of processes by role and state."""
    for role, processes in _processes(redis).items():
        stalled = sum(process.stalled for process in processes)
        yield (role, "alive"), len(processes) - stalled
        yield (role, "stalled"), stalled


def oldest_heartbeats(redis: RedisState) -> Samples:
    """Yield the greatest age of a last heartbeat by role."""
    for role, processes in _processes(redis).items():
        if processes:
            yield (role,), max(process.heartbeat_age_s for process in processes)


def _processes(redis: RedisState) -> dict[str, list[ProcessStatus]]:
    return {"worker": redis.workers, "dispatcher": redis.dispatchers}
