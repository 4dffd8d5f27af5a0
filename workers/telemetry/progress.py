"""Progress of each partition for operators: whether batches are committed, and the last failure.

Keys:

    projector:recent-progress:{p}  string  exists for STALLED_AFTER_S after a batch of partition p was committed
    projector:last-failure:{p}     string  JSON: how partition p's last batch failed; removed by the next commit
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, Field
from redis import Redis

from projections.error_classes import ErrorClass
from workers.telemetry.apply_rates import count_applied
from workers.telemetry.batch_metrics import CommittedBatch, count_committed, count_failed

STALLED_AFTER_S = 30.0
FAILURE_TTL_S = 120


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
class PartitionProgress:
    """Whether a batch was committed within STALLED_AFTER_S, and the failure since the last commit, if any."""

    is_moving: bool
    failure: BatchFailure | None


def record_batch(pipe: Redis, partition: int, batch: CommittedBatch) -> None:
    """Record a committed batch, in a pipeline that the caller executes."""
    pipe.set(_progress_key(partition), 1, ex=int(STALLED_AFTER_S))
    pipe.delete(_failure_key(partition))
    count_committed(pipe, batch)
    count_applied(pipe, partition, batch.applied)


def record_failure(redis: Redis, partition: int, failure: BatchFailure) -> None:
    """Record a failed batch."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.set(_failure_key(partition), failure.model_dump_json(), ex=FAILURE_TTL_S)
        count_failed(pipe, failure.fault)
        pipe.execute()


def read_progress(redis: Redis, partitions: int) -> Sequence[PartitionProgress]:
    """Return the progress of each partition, in one round trip."""
    with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.exists(_progress_key(partition))
            pipe.get(_failure_key(partition))
        replies: list[Any] = pipe.execute()
    pairs = zip(replies[::2], replies[1::2], strict=True)
    return [
        PartitionProgress(bool(is_moving), None if stored is None else BatchFailure.model_validate_json(stored))
        for is_moving, stored in pairs
    ]


def _progress_key(partition: int) -> str:
    return f"projector:recent-progress:{{{partition}}}"


def _failure_key(partition: int) -> str:
    return f"projector:last-failure:{{{partition}}}"
