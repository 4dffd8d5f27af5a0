"""Metrics of all batches, counted in Redis: sizes, durations, dead letters and failures.

They are approximate: a crash may leave a batch out. They start from zero, as new series, with each process of Redis,
because its data may be older than what was shown:
docs/decisions/0053-start-new-series-with-each-redis-process.md. The exact counts are in the checkpoints. Why in Redis:
docs/decisions/0042-metrics-travel-through-redis-and-the-database.md

Keys:

    projector:batch-metrics  hash  counters: `<histogram>:<upper bound>` and `<histogram>:sum`,
                                   `dead_lettered:<reason>`, `failed:<fault>`; and `redis_run`: the `run_id` of the
                                   Redis process that has counted them
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from event_stream.errors import Reason
from event_stream.events.envelope import claimed_source
from projections.error_classes import ErrorClass
from projections.transaction.apply import Batch
from projections.transaction.checkpoint import Checkpoint

KEY = "projector:batch-metrics"
RUN_FIELD = "redis_run"
# A user who may not call INFO counts on across restarts of Redis.
_RUN = """
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
"""
_COUNT = (
    _RUN
    + """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= run then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], ARGV[1], run)
end
for index = 2, #ARGV, 2 do redis.call('HINCRBY', KEYS[1], ARGV[index], ARGV[index + 1]) end
"""
)
_READ = (
    _RUN
    + """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= run then return {run, {}} end
return {run, redis.call('HGETALL', KEYS[1])}
"""
)
_TIMES_US = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Buckets:
    """The buckets of a histogram of whole numbers.

    Each bucket holds the numbers above the previous bound, up to and including its own. Larger numbers are in `+Inf`.
    """

    name: str
    bounds: tuple[int, ...]

    @property
    def names(self) -> list[str]:
        """The names of the buckets, smallest first."""
        return [*map(str, self.bounds), "+Inf"]

    def bucket_of(self, value: int) -> str:
        """Return the name of the bucket that counts `value`."""
        index = bisect_left(self.bounds, value)
        return str(self.bounds[index]) if index < len(self.bounds) else "+Inf"


BATCH_ENTRIES = Buckets("batch_entries", (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 4_000, 8_000))
BATCH_US = Buckets("batch_us", _TIMES_US)
COMMIT_US = Buckets("commit_us", _TIMES_US)


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """One committed batch: its entries, its dead letters by reason, their sources, its new events and its durations.

    The durations are in microseconds. `batch_us` starts before the batch is read, `commit_us` when its transaction
    begins. Both end when the database has confirmed the commit.
    """

    entries: int
    dead_lettered: Mapping[str, int]
    batch_us: int
    commit_us: int
    applied: int = 0
    dead_letter_sources: Sequence[str | None] = ()

    @classmethod
    def now(cls, batch: Batch, after: Checkpoint, started_s: float, apply_started_s: float) -> "CommittedBatch":
        """Return the metrics of a batch that is committed now; the start times are of `time.monotonic()`."""
        dead_lettered = Counter(dead_letter.reason.value for dead_letter in batch.dead_letters)
        # Conflicts are found in the transaction, by comparison with the log; the batch does not list them.
        parked = after.dead_lettered - batch.start.dead_lettered
        dead_lettered[Reason.ID_CONFLICT.value] += parked - len(batch.dead_letters)
        now_s = time.monotonic()
        return cls(
            entries=len(batch.stream_slice.entries),
            dead_lettered=+dead_lettered,
            batch_us=int((now_s - started_s) * 1e6),
            commit_us=int((now_s - apply_started_s) * 1e6),
            applied=after.applied - batch.start.applied,
            dead_letter_sources=[claimed_source(dead_letter.body) for dead_letter in batch.dead_letters],
        )


@dataclass(frozen=True, slots=True)
class Histogram:
    """The count of each bucket, smallest first, and the sum of all numbers."""

    buckets: Buckets
    counts: tuple[int, ...]
    sum: int


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """The metrics of all batches that were counted by one process of Redis, and the `run_id` of that process."""

    redis_run: str
    batch_entries: Histogram
    batch_us: Histogram
    commit_us: Histogram
    dead_lettered: Mapping[str, int]
    failed: Mapping[str, int]


def count_committed(pipe: Redis, batch: CommittedBatch) -> None:
    """Count a committed batch, in a pipeline that the caller executes."""
    added: dict[str, int] = {f"dead_lettered:{reason}": entries for reason, entries in batch.dead_lettered.items()}
    for buckets, value in ((BATCH_ENTRIES, batch.entries), (BATCH_US, batch.batch_us), (COMMIT_US, batch.commit_us)):
        added[f"{buckets.name}:{buckets.bucket_of(value)}"] = 1
        added[f"{buckets.name}:sum"] = value
    _add(pipe, added)


def count_failed(pipe: Redis, error_class: ErrorClass) -> None:
    """Count a failed batch, in a pipeline that the caller executes."""
    _add(pipe, {f"failed:{error_class}": 1})


def read_batch_metrics(redis: Redis) -> BatchMetrics:
    """Return the metrics; raises Redis's errors."""
    client: Any = redis
    run, stored = client.eval(_READ, 1, KEY, RUN_FIELD)
    pairs = zip(stored[::2], stored[1::2], strict=True)
    counted = {name.decode(): int(value) for name, value in pairs if name.decode() != RUN_FIELD}
    return BatchMetrics(
        redis_run=run.decode(),
        batch_entries=_histogram(counted, BATCH_ENTRIES),
        batch_us=_histogram(counted, BATCH_US),
        commit_us=_histogram(counted, COMMIT_US),
        dead_lettered={reason.value: counted.get(f"dead_lettered:{reason}", 0) for reason in Reason},
        failed={each.value: counted.get(f"failed:{each}", 0) for each in ErrorClass},
    )


def _add(pipe: Redis, added: Mapping[str, int]) -> None:
    pipe.eval(_COUNT, 1, KEY, RUN_FIELD, *(str(each) for pair in added.items() for each in pair))


def _histogram(counted: Mapping[str, int], buckets: Buckets) -> Histogram:
    counts = tuple(counted.get(f"{buckets.name}:{name}", 0) for name in buckets.names)
    return Histogram(buckets, counts, counted.get(f"{buckets.name}:sum", 0))
