"""What Prometheus scrapes: every metric, its meaning, and where it stands in one reading of the deployment.

What is about the deployment (workers and dispatchers, on whatever machines) every API process reads alike, from the
same reading as `projector status`; only the metrics of OWN are about the process that answers.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.utils import floatToGoString

from api_stub.lookups.coalesce import Coalescer
from api_stub.lookups.lookup import Database
from api_stub.request_metrics import BOUNDS_S, Meter
from event_stream.envelope import Reason
from workers.reporting.status import Observed, PartitionStatus, ProcessStatus, Recorded, Status
from workers.telemetry.batch_metrics import BatchMetrics, Histogram

S = TypeVar("S")
N = TypeVar("N", bound=float)


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram's value: how many fell into each bucket, the last without a bound, and the sum of all."""

    bounds: Sequence[float]
    counts: Sequence[int]
    sum: float


Value: TypeAlias = float | Buckets
Samples: TypeAlias = Iterable[tuple[tuple[str, ...], Value]]  # the labels' values, in the order of the labels


@dataclass(frozen=True, slots=True)
class Measure(Generic[S]):
    """One metric: what Prometheus and people are told of it, and `samples`, which finds it in what was read."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    means: str
    samples: Callable[[S], Samples]


@dataclass(frozen=True, slots=True)
class Own:
    """What the API process that answers knows of itself."""

    meter: Meter
    coalescers: Mapping[str, Coalescer[Any, Any]]
    database: Database


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look found; None is what could not be read, and the metrics that need it are left out."""

    own: Own
    recorded: Recorded | None
    observed: Observed | None
    tally: BatchMetrics | None
    status: Status | None


def collect(reading: Reading) -> Iterator[Metric]:
    """Yield every metric that a reading holds the values of, the whole of it or nothing."""
    parts: list[tuple[Sequence[Measure[Any]], Any]] = [
        (READING, reading),
        (RECORDED, reading.recorded),
        (STATUS, reading.status),
        (OBSERVED, reading.observed),
        (TALLY, reading.tally),
        (OWN, reading.own),
    ]
    for measures, part in parts:
        if part is not None:
            yield from (_family(measure, part) for measure in measures)


def _of_partitions(value: Callable[[PartitionStatus], float]) -> Callable[[Status], Samples]:
    return lambda status: [((str(each.partition),), value(each)) for each in status.partitions]


def _by_name(counts: Mapping[str, N]) -> Samples:
    return [((name,), count) for name, count in counts.items()]


def _alone(value: Value) -> Samples:
    return [((), value)]


def _processes(observed: Observed) -> dict[str, list[ProcessStatus]]:
    return {"worker": observed.workers, "dispatcher": observed.dispatchers}


def _alive_and_stalled(observed: Observed) -> Samples:
    for role, found in _processes(observed).items():
        stalled = sum(process.stalled for process in found)
        yield (role, "alive"), len(found) - stalled
        yield (role, "stalled"), stalled


def _silences(observed: Observed) -> Samples:
    for role, found in _processes(observed).items():
        if found:
            yield (role,), max(process.heartbeat_age_s for process in found)


def _in_seconds(counted_us: Histogram) -> Buckets:
    return Buckets([bound / 1e6 for bound in counted_us.scale.bounds], counted_us.counts, counted_us.sum / 1e6)


READING: tuple[Measure[Reading], ...] = (
    Measure(
        "projector_up",
        "gauge",
        ("server",),
        "1 if this scrape could read what it tells from the server, `redis` or `database`, else 0; what it could not"
        " read is left out.",
        lambda reading: [
            (("database",), float(reading.recorded is not None)),
            (("redis",), float(reading.observed is not None)),
        ],
    ),
)
RECORDED: tuple[Measure[Recorded], ...] = (
    Measure(
        "projector_entries_applied_total",
        "counter",
        ("partition",),
        "Entries whose event was new, and counts.",
        lambda recorded: [((str(at.partition),), at.applied) for at in recorded.checkpoints],
    ),
    Measure(
        "projector_entries_duplicate_total",
        "counter",
        ("partition",),
        "Entries that repeat an accepted event, and change nothing.",
        lambda recorded: [((str(at.partition),), at.duplicates) for at in recorded.checkpoints],
    ),
    Measure(
        "projector_entries_dead_lettered_total",
        "counter",
        ("partition",),
        "Entries that can never be applied, and became dead letters.",
        lambda recorded: [((str(at.partition),), at.dead_lettered) for at in recorded.checkpoints],
    ),
    Measure(
        "projector_dead_letters_open",
        "gauge",
        ("reason",),
        "Dead letters that nobody has replayed or discarded yet.",
        lambda recorded: _by_name({reason.value: recorded.open_dead_letters.get(reason.value, 0) for reason in Reason}),
    ),
    Measure(
        "projector_rebuild_pending_tenants",
        "gauge",
        ("projection",),
        "Tenants whose rows of a projection are of another version than this API process's, or lack events: a rebuild"
        " is due.",
        lambda recorded: _by_name({name: each.due for name, each in recorded.outdated.items()}),
    ),
    Measure(
        "projector_newer_version_tenants",
        "gauge",
        ("projection",),
        "Tenants whose rows of a projection are of a newer version than this API process's; workers of its release"
        " stop there.",
        lambda recorded: _by_name({name: each.newer for name, each in recorded.outdated.items()}),
    ),
)
STATUS: tuple[Measure[Status], ...] = (
    Measure(
        "projector_lag_entries",
        "gauge",
        ("partition",),
        "Entries appended and not yet projected.",
        _of_partitions(lambda each: each.lag_entries),
    ),
    Measure(
        "projector_lag_seconds",
        "gauge",
        ("partition",),
        "Age of the oldest entry not yet projected; 0 if there is none.",
        _of_partitions(lambda each: each.lag_s),
    ),
    Measure(
        "projector_entries_lost_total",
        "counter",
        ("partition",),
        "Entries that Redis lost before they were read: trimmed, evicted, or restored from an older state.",
        _of_partitions(lambda each: each.lost),
    ),
    Measure(
        "projector_partition_stalled",
        "gauge",
        ("partition",),
        "1 if entries have waited for more than 30 s and nothing was projected meanwhile, else 0.",
        _of_partitions(lambda each: each.stalled),
    ),
    Measure(
        "projector_partition_consecutive_failures",
        "gauge",
        ("partition",),
        "Batches that have failed in a row, by now; 0 once one is committed.",
        _of_partitions(lambda each: each.failure.consecutive_failures if each.failure else 0),
    ),
)
OBSERVED: tuple[Measure[Observed], ...] = (
    Measure(
        "projector_processes",
        "gauge",
        ("role", "state"),
        "Processes known of each role (`worker`, `dispatcher`): `alive`, or `stalled`, which is silent for more than"
        " 30 s.",
        _alive_and_stalled,
    ),
    Measure(
        "projector_heartbeat_age_seconds",
        "gauge",
        ("role",),
        "How long the most silent process known of a role has given no sign of life; left out where none is known.",
        _silences,
    ),
    Measure(
        "projector_queue_length",
        "gauge",
        (),
        "Drains that are rung for and wait for a worker.",
        lambda observed: _alone(observed.queue_length),
    ),
    Measure(
        "projector_breaker_open",
        "gauge",
        (),
        "1 while events of so many tenants fail that it must be the release: nothing is dead-lettered then. Else 0.",
        lambda observed: _alone(observed.breaker_open_reason is not None),
    ),
    Measure(
        "projector_verify_mismatched_rows",
        "gauge",
        (),
        "Rows of read models that are not what the event log says, as far as was verified.",
        lambda observed: _alone(observed.verification.mismatched_rows),
    ),
    Measure(
        "projector_verify_log_errors",
        "gauge",
        (),
        "Partitions whose event log does not hold all that was applied.",
        lambda observed: _alone(len(observed.verification.log_errors)),
    ),
    Measure(
        "projector_verify_skipped_tenants",
        "gauge",
        (),
        "Tenants that the last pass left out, as summing up their events took too long.",
        lambda observed: _alone(observed.verification.skipped_tenants),
    ),
    Measure(
        "projector_verify_finished_timestamp_seconds",
        "gauge",
        (),
        "When the last pass of the verification ended, in seconds since 1970; 0 before the first one has.",
        lambda observed: _alone((observed.verification.finished_ms or 0) / 1000),
    ),
)
TALLY: tuple[Measure[BatchMetrics], ...] = (
    Measure(
        "projector_dead_letters_total",
        "counter",
        ("reason",),
        "Entries that became dead letters since Redis began to count, by reason.",
        lambda tally: _by_name(tally.dead_lettered),
    ),
    Measure(
        "projector_batches_failed_total",
        "counter",
        ("fault",),
        "Batches rolled back and tried again: `external`, a server or a machine was at fault; `internal`, the"
        " release or an event.",
        lambda tally: _by_name(tally.failed),
    ),
    Measure(
        "projector_batch_entries",
        "histogram",
        (),
        "Entries of a committed batch.",
        lambda tally: _alone(
            Buckets(tally.batch_entries.scale.bounds, tally.batch_entries.counts, tally.batch_entries.sum)
        ),
    ),
    Measure(
        "projector_batch_seconds",
        "histogram",
        (),
        "How long a committed batch took, from before it was read until it was committed.",
        lambda tally: _alone(_in_seconds(tally.batch_us)),
    ),
    Measure(
        "projector_commit_seconds",
        "histogram",
        (),
        "How long the transaction of a batch took, its commit and what was judged meanwhile included.",
        lambda tally: _alone(_in_seconds(tally.commit_us)),
    ),
)
OWN: tuple[Measure[Own], ...] = (
    Measure(
        "projector_api_request_seconds",
        "histogram",
        ("route", "status"),
        "How long this API process took to answer, by route template (`none` for any other path) and HTTP status.",
        lambda own: [
            ((route, str(status)), Buckets(BOUNDS_S, timing.counts, timing.sum_s))
            for (route, status), timing in own.meter.timings.items()
        ],
    ),
    Measure(
        "projector_api_lookups_total",
        "counter",
        ("lookup",),
        "Lookups that requests to this API process asked for: `key`, `stats`, `activity`.",
        lambda own: _by_name({name: each.asked for name, each in own.coalescers.items()}),
    ),
    Measure(
        "projector_api_queries_total",
        "counter",
        ("lookup",),
        "Queries that this API process sent for them; asks at the same time share one.",
        lambda own: _by_name({name: each.sent for name, each in own.coalescers.items()}),
    ),
    Measure(
        "projector_api_connections_in_use",
        "gauge",
        (),
        "Database connections that reads of this API process hold now.",
        lambda own: _alone(own.database.connections().in_use),
    ),
    Measure(
        "projector_api_connections_open",
        "gauge",
        (),
        "Database connections that this API process holds open for reads.",
        lambda own: _alone(own.database.connections().open),
    ),
)
MEASURES: tuple[Measure[Any], ...] = (*READING, *RECORDED, *STATUS, *OBSERVED, *TALLY, *OWN)


def _family(measure: Measure[S], part: S) -> Metric:
    families = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    family: Any = families[measure.kind](measure.name, measure.means, labels=measure.labels)
    for labels, value in measure.samples(part):
        if isinstance(value, Buckets):
            names = [*map(floatToGoString, value.bounds), "+Inf"]
            family.add_metric(labels, list(zip(names, accumulate(value.counts), strict=True)), value.sum)
        else:
            family.add_metric(labels, value)
    return family  # type: ignore[no-any-return]
