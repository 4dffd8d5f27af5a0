"""DrainMark: shows in Redis that a drain holds large batches, so that a kill because of memory is noticed.

Keys:

    projector:large-batch:{p}  string  the entries of the largest batch that the running drain of partition p reads;
                                       removed when the drain ends

docs/decisions/0014-bound-batches.md
"""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from workers.drain.batch_size import BatchSize

LARGE_BYTES = 1024 * 1024
MARK_TTL_S = 3600


@dataclass
class DrainMark:
    """The mark of one drain. If Redis fails, nothing is marked."""

    redis: Redis
    partition: int
    batch_size: BatchSize
    _marked: int = 0

    def before_read(self, count: int) -> None:
        """Mark that `count` entries are read, if this may need much memory.

        The first read of a process looks for the mark of a process that was killed.
        """
        size = self.batch_size
        with suppress(RedisError):
            if size.is_new:
                size.is_new = False
                killed: Any = self.redis.get(self._key)
                if killed:
                    size.limit_after_kill(int(killed))
            is_larger = count > max(1, size.largest_applied) or size.last_bytes >= LARGE_BYTES
            if is_larger and count > self._marked:
                self.redis.set(self._key, count, ex=MARK_TTL_S)
                self._marked = count

    def remove(self) -> None:
        """Remove the mark when the drain ends."""
        if self._marked:
            self._marked = 0
            with suppress(RedisError):
                self.redis.delete(self._key)

    @property
    def _key(self) -> str:
        return f"projector:large-batch:{{{self.partition}}}"
