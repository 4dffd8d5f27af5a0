"""Lease: marks a partition that has a running drain or an enqueued drain job, to avoid duplicate work.

Keys:

    projector:drain-lease:{p}  string  the token of the drain that works on partition p, or is enqueued for it; expires

It guarantees nothing; the claim does: docs/decisions/0009-leases-and-a-bounded-queue.md
"""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import LockError, OutOfMemoryError
from redis.lock import Lock

LEASE_S = 5.0
LEASE_MAX_S = 60.0  # longer than any pause for which a drain extends it


def partitions_without_lease(redis: Redis, partitions: Sequence[int]) -> list[int]:
    """Return those of `partitions` whose lease can probably be acquired, in one round trip."""
    with redis.pipeline(transaction=False) as pipe:
        for partition in partitions:
            pipe.pttl(_lease_key(partition))
        left_ms = pipe.execute()
    # A lease that lasts longer than LEASE_MAX_S is included, so that `acquire` shortens it.
    return [each for each, ms in zip(partitions, left_ms, strict=True) if not 0 <= ms <= LEASE_MAX_S * 1000]


class Lease:
    """The lease of one partition, held by the owner of a token."""

    def __init__(self, redis: Redis, partition: int, token: str | None = None) -> None:
        self.token = token or uuid4().hex
        self._redis: Any = redis
        self._key = _lease_key(partition)
        self._lock = Lock(redis, self._key, timeout=LEASE_S, thread_local=False)

    def acquire(self) -> bool:
        """Take the lease if it is free; returns whether it was."""
        if self._lock.acquire(blocking=False, token=self.token):
            return True
        if self._redis.pttl(self._key) > LEASE_MAX_S * 1000:
            # Redis's clock was set back, so the lease would last longer than intended by the same amount.
            self._redis.pexpire(self._key, int(LEASE_S * 1000))
        return False

    def acquire_or_extend(self) -> bool:
        """Hold the lease for another LEASE_S; returns False if another token holds it."""
        self._lock.local.token = self.token.encode()
        try:
            return self.extend(LEASE_S) or self.acquire()
        except OutOfMemoryError:
            return True  # a full Redis cannot store a lease, and must be drained without one

    def extend(self, for_s: float) -> bool:
        """Make the lease expire `for_s` from now; returns False if this token does not hold it."""
        try:
            return bool(self._lock.extend(for_s, replace_ttl=True))
        except LockError:
            return False

    def release(self) -> None:
        """Free the lease if this token holds it."""
        try:
            self._lock.release()
        except (LockError, OutOfMemoryError):
            return


def _lease_key(partition: int) -> str:
    return f"projector:drain-lease:{{{partition}}}"
