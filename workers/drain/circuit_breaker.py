"""CircuitBreaker: stops parking while events of many tenants fail, because the release is then at fault.

Keys:

    projector:breaker-open  string  why the circuit breaker of a worker is open; expires

When events are parked: docs/decisions/0016-park-an-event-only-after-it-fails-alone.md
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
    """The tenants whose events were applied, or failed alone, in this process within the last WINDOW_S.

    It is open while at least half of these tenants have failures; one tenant alone cannot open it. While it is open
    nothing is parked, and the next event is tried again every PROBE_S. It closes by itself when the release is fixed,
    because old failures leave the window.
    """

    clock: Callable[[], float] = time.monotonic
    applied_at: dict[str, float] = field(default_factory=dict)
    failed_at: dict[str, float] = field(default_factory=dict)

    def applied(self, tenants: Iterable[str]) -> None:
        """Record that events of these tenants were applied."""
        self.applied_at.update(dict.fromkeys(tenants, self.clock()))
        if len(self.applied_at) > TENANTS_MAX:
            self._forget_old()

    def failed(self, tenant: str) -> None:
        """Record that an event of this tenant failed alone."""
        self.failed_at[tenant] = self.clock()

    @property
    def is_open(self) -> bool:
        """Whether events of at least half of the tenants fail, and of more than one."""
        self._forget_old()
        tenants = self.applied_at.keys() | self.failed_at.keys()
        return len(self.failed_at) > 1 and 2 * len(self.failed_at) >= len(tenants)

    def _forget_old(self) -> None:
        """Forget tenants outside the window, and all but the latest half of TENANTS_MAX that were applied."""
        oldest = self.clock() - WINDOW_S
        self.failed_at = {tenant: at for tenant, at in self.failed_at.items() if at > oldest}
        recent = sorted(((at, tenant) for tenant, at in self.applied_at.items() if at > oldest), reverse=True)
        self.applied_at = {tenant: at for at, tenant in recent[: TENANTS_MAX // 2]}


def publish(redis: Redis, reason: str) -> None:
    """Publish why a breaker is open, until the probe after the next one."""
    redis.set(KEY, reason, ex=int(2 * PROBE_S))


def read(redis: Redis) -> str | None:
    """Return why a breaker is open, or None if all are closed."""
    reason = redis.get(KEY)
    return reason.decode() if isinstance(reason, bytes) else None
