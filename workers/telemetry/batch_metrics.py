"""What all drains did, counted in Redis: how large batches were, how long they took, what was parked, what failed.

The numbers are for graphs: a crash may leave a batch out, a Redis that forgets begins again. What must be exact stands
in the checkpoints.

Keys:

    projector:batch-metrics  hash  counters: `<histogram>:<upper bound>` and `<histogram>:sum`,
                                   `dead_lettered:<reason>`, `failed:<fault>`
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from event_stream.envelope import Reason
from projections.error_classes import ErrorClass
from projections.transaction.apply import Batch
from projections.transaction.checkpoint import Checkpoint

KEY = "projector:batch-metrics"
_TIMES_US = (1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000)


@dataclass(frozen=True, slots=True)
class Buckets:
    """The buckets that whole numbers are counted in: each holds what is above the bound before it, up to its own.

    What is above the last bound goes to a bucket named `+Inf`.
    """

    name: str
    bounds: tuple[int, ...]

    @property
    def buckets(self) -> list[str]:
        """The names of the buckets, smallest first."""
        return [*map(str, self.bounds), "+Inf"]

    def bucket_of(self, value: int) -> str:
        """Return the name of the bucket that a number falls into."""
        index = bisect_left(self.bounds, value)
        return str(self.bounds[index]) if index < len(self.bounds) else "+Inf"


BATCH_ENTRIES = Buckets("batch_entries", (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 4_000, 8_000))
BATCH_US = Buckets("batch_us", _TIMES_US)
COMMIT_US = Buckets("commit_us", _TIMES_US)


@dataclass(frozen=True, slots=True)
class CommittedBatch:
    """One batch that was committed: its entries, what became of them, and how long it took in microseconds.

    `dead_lettered` is by reason, `applied` the events that were new.

    `batch_us` runs from before it was read, `commit_us` from the begin of its transaction, both until the database said
    that it is committed.
    """

    entries: int
    dead_lettered: Mapping[str, int]
    batch_us: int
    commit_us: int
    applied: int = 0

    @classmethod
    def now(cls, batch: Batch, after: Checkpoint, began_s: float, applying_s: float) -> "CommittedBatch":
        """Return what a batch was that is committed now; the moments are of `time.monotonic()`."""
        dead_lettered = Counter(letter.reason.value for letter in batch.letters)
        # What the transaction itself found out: only the log tells who had an identity first.
        dead_lettered[Reason.ID_CONFLICT.value] += after.dead_lettered - batch.start.dead_lettered - len(batch.letters)
        now_s = time.monotonic()
        return cls(
            entries=len(batch.reading.entries),
            dead_lettered=+dead_lettered,
            batch_us=int((now_s - began_s) * 1e6),
            commit_us=int((now_s - applying_s) * 1e6),
            applied=after.applied - batch.start.applied,
        )


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many numbers fell into each bucket of a scale, smallest first, and the sum of all."""

    scale: Buckets
    counts: tuple[int, ...]
    sum: int


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """What all drains did since Redis began to count."""

    batch_entries: Histogram
    batch_us: Histogram
    commit_us: Histogram
    dead_lettered: Mapping[str, int]
    failed: Mapping[str, int]


def count_committed(pipe: Redis, batch: CommittedBatch) -> None:
    """Count a batch; `pipe` is the pipeline that goes to Redis anyhow."""
    for scale, value in ((BATCH_ENTRIES, batch.entries), (BATCH_US, batch.batch_us), (COMMIT_US, batch.commit_us)):
        pipe.hincrby(KEY, f"{scale.name}:{scale.bucket_of(value)}", 1)
        pipe.hincrby(KEY, f"{scale.name}:sum", value)
    for reason, entries in batch.dead_lettered.items():
        pipe.hincrby(KEY, f"dead_lettered:{reason}", entries)


def count_failed(pipe: Redis, fault: ErrorClass) -> None:
    """Count a batch that failed."""
    pipe.hincrby(KEY, f"failed:{fault}", 1)


def read_batch_metrics(redis: Redis) -> BatchMetrics:
    """Return what was counted; raises what Redis raises."""
    stored: Any = redis.hgetall(KEY)
    counted = {name.decode(): int(value) for name, value in stored.items()}
    return BatchMetrics(
        batch_entries=_histogram(counted, BATCH_ENTRIES),
        batch_us=_histogram(counted, BATCH_US),
        commit_us=_histogram(counted, COMMIT_US),
        dead_lettered={reason.value: counted.get(f"dead_lettered:{reason}", 0) for reason in Reason},
        failed={fault.value: counted.get(f"failed:{fault}", 0) for fault in ErrorClass},
    )


def _histogram(counted: Mapping[str, int], scale: Buckets) -> Histogram:
    counts = tuple(counted.get(f"{scale.name}:{bucket}", 0) for bucket in scale.buckets)
    return Histogram(scale, counts, counted.get(f"{scale.name}:sum", 0))
