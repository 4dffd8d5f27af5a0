"""The breaker: tells one bad event, which is parked, from a bad release, which must not park everything.

Keys:

    projector:breaker-open  string  why the circuit breaker of a worker is open; expires
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from redis import Redis

WINDOW_S = 300.0
PROBE_S = 30.0
TENANTS_MAX = 10_000
KEY = "projector:breaker-open"


@dataclass
class CircuitBreaker:
    """Remembers which tenants' events were applied, and which failed alone, in this process and lately.

    It is open while the failures span at least half of the tenants seen; one tenant alone cannot open it. While it is
    open nothing is parked, and every PROBE_S the next event is tried again. It closes by itself: when the release is
    mended the failures end, and old ones leave the window.
    """

    clock: Callable[[], float] = time.monotonic
    applied_at: dict[str, float] = field(default_factory=dict)
    failed_at: dict[str, float] = field(default_factory=dict)

    def applied(self, tenants: Iterable[str]) -> None:
        """Note that events of these tenants were applied."""
        self.applied_at.update(dict.fromkeys(tenants, self.clock()))
        if len(self.applied_at) > TENANTS_MAX:
            self._forget_old()

    def failed(self, tenant: str) -> None:
        """Note that an event of this tenant failed alone."""
        self.failed_at[tenant] = self.clock()

    @property
    def is_open(self) -> bool:
        """Whether events fail for so many tenants that it must be us."""
        self._forget_old()
        seen = self.applied_at.keys() | self.failed_at.keys()
        return len(self.failed_at) > 1 and 2 * len(self.failed_at) >= len(seen)

    def _forget_old(self) -> None:
        """Forget what left the window, and beyond TENANTS_MAX the tenants applied longest ago."""
        oldest = self.clock() - WINDOW_S
        self.failed_at = {tenant: at for tenant, at in self.failed_at.items() if at > oldest}
        recent = sorted(((at, tenant) for tenant, at in self.applied_at.items() if at > oldest), reverse=True)
        self.applied_at = {tenant: at for at, tenant in recent[: TENANTS_MAX // 2]}


def publish(redis: Redis, reason: str) -> None:
    """Let operators see why a breaker is open, until the probe after next."""
    redis.set(KEY, reason, ex=int(2 * PROBE_S))


def read(redis: Redis) -> str | None:
    """Return why a breaker is open, or None if none is."""
    reason = redis.get(KEY)
    return reason.decode() if isinstance(reason, bytes) else None
