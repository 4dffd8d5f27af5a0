"""What drains let operators see of a partition: that it moves, or why it does not.

Keys:

    projector:progress:{p}  string  there for STALLED_AFTER_S after a batch of partition p was committed
    projector:failure:{p}   string  JSON: how partition p's last batch failed; removed by the next that is committed
"""

from pydantic import BaseModel
from redis import Redis

from projections.faults import Fault

STALLED_AFTER_S = 30.0
FAILURE_SHOWN_S = 120


class Failure(BaseModel):
    """How a partition's last batch failed: the `failures`-th in a row of one process.

    It tries again after `pause_s`, with `next_batch` entries.
    """

    fault: Fault
    error: str
    failures: int
    next_batch: int
    pause_s: float

    @property
    def kind(self) -> str:
        """The error without its text, for those who need not know more."""
        return self.error.partition(":")[0]


def note_progress(redis: Redis, partition: int) -> None:
    """Let operators see that a partition moves."""
    with redis.pipeline(transaction=False) as pipe:
        pipe.set(_progress_key(partition), 1, ex=int(STALLED_AFTER_S))
        pipe.delete(_failure_key(partition))
        pipe.execute()


def note_failure(redis: Redis, partition: int, failure: Failure) -> None:
    """Let operators see why a partition does not move."""
    redis.set(_failure_key(partition), failure.model_dump_json(), ex=FAILURE_SHOWN_S)


def has_progress(redis: Redis, partition: int) -> bool:
    """Return whether a batch of a partition was committed within STALLED_AFTER_S."""
    return bool(redis.exists(_progress_key(partition)))


def read_failure(redis: Redis, partition: int) -> Failure | None:
    """Return how a partition's last batch failed, or None if none has since one was committed."""
    stored = redis.get(_failure_key(partition))
    return Failure.model_validate_json(stored) if isinstance(stored, bytes) else None


def _progress_key(partition: int) -> str:
    return f"projector:progress:{{{partition}}}"


def _failure_key(partition: int) -> str:
    return f"projector:failure:{{{partition}}}"
