"""Progress of each partition for operators: whether batches are committed, how long entries wait, the last failure.

Keys:

    projector:recent-progress:{p}  string  exists for STALLED_AFTER_S after a batch of partition p was committed
    projector:waiting-since        hash    `<p>`: the checkpoint at which entries of partition p wait, and since when
    projector:last-failure:{p}     string  JSON: how partition p's last batch failed; removed by the next commit
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from redis import Redis

from projections.error_classes import ErrorClass
from projections.transaction.checkpoint import Checkpoint
from workers.telemetry.apply_rates import count_applied
from workers.telemetry.batch_metrics import CommittedBatch, count_committed, count_failed
from workers.telemetry.dead_letter_sources import count_sources

STALLED_AFTER_S = 30.0
FAILURE_TTL_S = 120
_WAITS_KEY = "projector:waiting-since"


class BatchFailure(BaseModel):
    """How the last batch of a partition failed, and how its drain continues."""

    fault: ErrorClass = Field(
        description="Cause: `external` (a server or a machine) or `internal` (this release or an event)."
    )
    error: str = Field(description="Type and message of the error.")
    consecutive_failures: int = Field(description="Batches that have failed in a row.")
    next_batch_entries: int = Field(description="Entries in the next attempt.")
    retry_after_s: float = Field(description="Seconds between the failure and the next attempt.")

    @property
    def kind(self) -> str:
        """The type of the error, without its message."""
        return self.error.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Wait:
    """A checkpoint that has not moved since `since_ms` by Redis's clock, although entries come after it.

    Entry ids do not show this, because they may be ahead of the clock: docs/decisions/0058-judge-stalls-by-movement.md
    """

    checkpoint: str
    since_ms: int


@dataclass(frozen=True, slots=True)
class PartitionProgress:
    """Whether a batch was committed within STALLED_AFTER_S, the failure since then, and the wait, if there are any."""

    is_moving: bool
    failure: BatchFailure | None
    wait: Wait | None

    def waited_ms(self, checkpoint: Checkpoint, now_ms: int) -> int:
        """Return for how long entries are known to wait at this checkpoint; 0 if it has moved since."""
        if self.wait is None or self.wait.checkpoint != _identify(checkpoint):
            return 0
        return max(0, now_ms - self.wait.since_ms)


def record_batch(pipe: Redis, partition: int, batch: CommittedBatch) -> None:
    """Record a committed batch, in a pipeline that the caller executes."""
    pipe.set(_progress_key(partition), 1, ex=int(STALLED_AFTER_S))
    pipe.delete(_failure_key(partition))
    count_committed(pipe, batch)
    count_applied(pipe, partition, batch.applied)
    count_sources(pipe, partition, batch.dead_letter_sources)


def record_failure(redis: Redis, partition: int, failure: BatchFailure) -> None:
    """Record a failed batch."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.set(_failure_key(partition), failure.model_dump_json(), ex=FAILURE_TTL_S)
        count_failed(pipe, failure.fault)
        pipe.execute()


def record_waits(redis: Redis, pipe: Redis, waiting: Sequence[Checkpoint], now_ms: int) -> None:
    """Record in a pipeline at which checkpoints entries wait; a wait that is recorded already goes on."""
    recorded = _read_waits(redis)
    checkpoints = {each.partition: _identify(each) for each in waiting}
    for partition in recorded.keys() - checkpoints.keys():
        pipe.hdel(_WAITS_KEY, str(partition))
    for partition, checkpoint in checkpoints.items():
        wait = recorded.get(partition)
        # A wait that begins in the future was recorded before Redis's clock was set back.
        if wait is None or wait.checkpoint != checkpoint or wait.since_ms > now_ms:
            pipe.hset(_WAITS_KEY, str(partition), f"{checkpoint} {now_ms}")


def read_progress(redis: Redis, partitions: int) -> Sequence[PartitionProgress]:
    """Return the progress of each partition, in one round trip."""
    waits = _read_waits(redis)
    with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.exists(_progress_key(partition))
            pipe.get(_failure_key(partition))
        replies: list[Any] = pipe.execute()
    return [
        PartitionProgress(
            is_moving=bool(is_moving),
            failure=None if stored is None else BatchFailure.model_validate_json(stored),
            wait=waits.get(partition),
        )
        for partition, (is_moving, stored) in enumerate(zip(replies[::2], replies[1::2], strict=True))
    ]


def _read_waits(redis: Redis) -> dict[int, Wait]:
    stored: Any = redis.hgetall(_WAITS_KEY)
    waits = {}
    for partition, value in stored.items():
        checkpoint, _, since_ms = value.decode().partition(" ")
        waits[int(partition)] = Wait(checkpoint, int(since_ms))
    return waits


def _identify(checkpoint: Checkpoint) -> str:
    """Return a text that changes with each batch, and when entries are counted as lost."""
    return f"{checkpoint.epoch}/{checkpoint.position}/{checkpoint.read}/{checkpoint.lost}"


def _progress_key(partition: int) -> str:
    return f"projector:recent-progress:{{{partition}}}"


def _failure_key(partition: int) -> str:
    return f"projector:last-failure:{{{partition}}}"
