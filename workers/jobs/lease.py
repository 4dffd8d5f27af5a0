"""The drain lease: which drain works on a partition. It saves work; correctness rests on the claim.

Keys:

    projector:drain-lease:{p}  string  the token of the drain that works on partition p, or is enqueued for it; expires
"""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from redis import Redis
from redis.exceptions import LockError, OutOfMemoryError
from redis.lock import Lock

LEASE_S = 5.0
LEASE_MAX_S = 60.0  # longer than any pause for which a drain keeps it


def without_lease(redis: Redis, partitions: Sequence[int]) -> list[int]:
    """Return those of some partitions whose lease may be taken, as no drain seems to hold it; in one round trip."""
    with redis.pipeline(transaction=False) as pipe:
        for partition in partitions:
            pipe.pttl(_lease_key(partition))
        left_ms = pipe.execute()
    # One that stands for too long is for `take` to shorten.
    return [each for each, ms in zip(partitions, left_ms, strict=True) if not 0 <= ms <= LEASE_MAX_S * 1000]


def _lease_key(partition: int) -> str:
    return f"projector:drain-lease:{{{partition}}}"


class Lease:
    """Who works on a partition, so that one is rung at a time. It saves work; correctness is the claim's."""

    def __init__(self, redis: Redis, partition: int, token: str | None = None) -> None:
        self.token = token or uuid4().hex
        self._redis: Any = redis
        self._key = _lease_key(partition)
        self._lock = Lock(redis, self._key, timeout=LEASE_S, thread_local=False)

    def take(self) -> bool:
        """Return whether the lease was free and is ours now."""
        if self._lock.acquire(blocking=False, token=self.token):
            return True
        if self._redis.pttl(self._key) > LEASE_MAX_S * 1000:
            # Redis's clock was set back: what was to end in seconds would otherwise stand for as long as that.
            self._redis.pexpire(self._key, int(LEASE_S * 1000))
        return False

    def enter(self) -> bool:
        """Return whether the lease is ours for another LEASE_S: it was already, or it was free."""
        self._lock.local.token = self.token.encode()
        try:
            return self.keep(LEASE_S) or self.take()
        except OutOfMemoryError:
            return True  # a full Redis gives leases to nobody; they only save work

    def keep(self, for_s: float) -> bool:
        """Make the lease, if it is still ours, expire `for_s` from now; returns whether it was."""
        try:
            return bool(self._lock.extend(for_s, replace_ttl=True))
        except LockError:
            return False

    def release(self) -> None:
        """Free the lease if it is still ours."""
        try:
            self._lock.release()
        except (LockError, OutOfMemoryError):
            return
