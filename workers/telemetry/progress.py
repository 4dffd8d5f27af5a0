"""What drains let operators see of a partition: that it moves, or why it does not.

Keys:

    projector:recent-progress:{p}  string  exists for STALLED_AFTER_S after a batch of partition p was committed
    projector:last-failure:{p}     string  JSON: how partition p's last batch failed; removed by the next commit
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, Field
from redis import Redis

from projections.error_classes import ErrorClass
from workers.telemetry.apply_rates import count_applied
from workers.telemetry.batch_metrics import CommittedBatch, count_committed, count_failed

STALLED_AFTER_S = 30.0
FAILURE_SHOWN_S = 120


class Failure(BaseModel):
    """How a partition's last batch failed: the `consecutive_failures`-th in a row of one process.

    It tries again after `retry_after_s`, with `next_batch_entries` entries.
    """

    fault: Annotated[
        ErrorClass,
        Field(description="Cause: `external` (a server or a machine) or `internal` (this release or an event)."),
    ]
    error: Annotated[str, Field(description="Type and message of the error.")]
    consecutive_failures: Annotated[int, Field(description="Batches that have failed in a row.")]
    next_batch_entries: Annotated[int, Field(description="Entries in the next attempt.")]
    retry_after_s: Annotated[float, Field(description="Seconds between the failure and the next attempt.")]

    @property
    def kind(self) -> str:
        """The error without its text, for those who need not know more."""
        return self.error.partition(":")[0]


@dataclass(frozen=True, slots=True)
class Movement:
    """Whether a batch of a partition was committed within STALLED_AFTER_S, and how the last one failed since then."""

    moves: bool
    failure: Failure | None


def note_batch(pipe: Redis, partition: int, batch: CommittedBatch) -> None:
    """Let operators see that a partition moves, and count what was committed; `pipe` goes to Redis anyhow."""
    pipe.set(_progress_key(partition), 1, ex=int(STALLED_AFTER_S))
    pipe.delete(_failure_key(partition))
    count_committed(pipe, batch)
    count_applied(pipe, partition, batch.applied)


def note_failure(redis: Redis, partition: int, failure: Failure) -> None:
    """Let operators see why a partition does not move."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.set(_failure_key(partition), failure.model_dump_json(), ex=FAILURE_SHOWN_S)
        count_failed(pipe, failure.fault)
        pipe.execute()


def read_movements(redis: Redis, partitions: int) -> Sequence[Movement]:
    """Return how each partition moves, in one round trip."""
    with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.exists(_progress_key(partition))
            pipe.get(_failure_key(partition))
        answers: list[Any] = pipe.execute()
    return [Movement(bool(moves), _failure(stored)) for moves, stored in zip(*[iter(answers)] * 2, strict=True)]


def _failure(stored: bytes | None) -> Failure | None:
    return None if stored is None else Failure.model_validate_json(stored)


def _progress_key(partition: int) -> str:
    return f"projector:recent-progress:{{{partition}}}"


def _failure_key(partition: int) -> str:
    return f"projector:last-failure:{{{partition}}}"
