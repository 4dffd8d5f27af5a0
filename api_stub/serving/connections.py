"""The connections of one listener: how many there are, what each waits for, and which one is closed at the limit.

See docs/decisions/0050-a-guard-in-front-of-uvicorn.md.
"""

import asyncio
from collections import Counter
from enum import Enum, auto
from typing import Protocol

import structlog

from api_stub.serving.limits import Limits

SWEEP_S = 0.25
LOG_EVERY_S = 10.0

log = structlog.get_logger()


class Phase(Enum):
    """What a connection waits for."""

    OPENED = auto()  # its first byte
    RECEIVING = auto()  # the end of a request's head
    ANSWERING = auto()  # our response
    UNREAD = auto()  # a client that does not read what was sent
    IDLE = auto()  # the next request
    CLOSED = auto()


_UNUSED = (Phase.OPENED, Phase.RECEIVING, Phase.UNREAD)


class Connection(Protocol):
    """What this module needs of a connection."""

    phase: Phase
    is_reserved: bool

    def abort(self) -> None:
        """Close the connection at once."""

    def close(self) -> None:
        """Close the connection after what was written has been sent."""

    def time_out(self) -> None:
        """End the connection, because its phase has lasted too long."""


class Connections:
    """All open connections, in the order in which each began to wait.

    The connections of a phase have the same time limit, so each phase needs only a queue and no timer per connection.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._queues: dict[Phase, dict[Connection, float]] = {phase: {} for phase in Phase if phase is not Phase.CLOSED}
        self._limits_s = {
            Phase.OPENED: limits.first_byte_s,
            Phase.RECEIVING: limits.head_s,
            Phase.UNREAD: limits.unread_s,
            # uvicorn closes an idle connection. This closes it if its client does not read what was sent before.
            Phase.IDLE: limits.keep_alive_s + limits.unread_s,
        }
        self._closed: Counter[str] = Counter()
        self._logged_at = -LOG_EVERY_S
        self._sweeping: asyncio.TimerHandle | None = None
        self.open = 0

    @property
    def is_over_limit(self) -> bool:
        """Whether more connections are open than the limit allows, so that reserved ones are in use."""
        return self.open > self.limits.connections_max

    def admit(self, connection: Connection) -> bool:
        """Count a new connection; at the limit, close the one that has waited longest. Returns False if none waits."""
        if self.open >= self.limits.connections_max and not self._close_longest_waiting():
            if self.open >= self.limits.connections_max + self.limits.reserved:
                self.count_closed("refused")
                return False
            connection.is_reserved = True
        self.open += 1
        connection.phase = Phase.OPENED
        self._queues[Phase.OPENED][connection] = asyncio.get_running_loop().time()
        if self._sweeping is None:
            self._schedule_sweep()
        return True

    def enter(self, connection: Connection, phase: Phase) -> None:
        """Note that a connection begins to wait for something else."""
        if connection.phase is not Phase.CLOSED:
            del self._queues[connection.phase][connection]
            connection.phase = phase
            self._queues[phase][connection] = asyncio.get_running_loop().time()

    def forget(self, connection: Connection) -> None:
        """Stop counting a connection that is closed."""
        if connection.phase is not Phase.CLOSED:
            del self._queues[connection.phase][connection]
            connection.phase = Phase.CLOSED
            self.open -= 1

    def count_closed(self, reason: str) -> None:
        """Count a connection that is closed because of a limit; a log line follows within seconds."""
        self._closed[reason] += 1
        if self._sweeping is None:
            self._schedule_sweep()

    def waiting(self, *phases: Phase) -> list[Connection]:
        """Return the connections in some phases."""
        return [connection for phase in phases for connection in self._queues[phase]]

    def _close_longest_waiting(self) -> bool:
        # A connection that was used is closed only if there is none that has sent no request.
        for phases in (_UNUSED, (Phase.IDLE,)):
            oldest = [next(iter(self._queues[phase].items())) for phase in phases if self._queues[phase]]
            if oldest:
                connection, _ = min(oldest, key=lambda each: each[1])
                break
        else:
            return False
        self.count_closed("limit_of_connections")
        self.forget(connection)
        connection.abort()
        return True

    def _schedule_sweep(self) -> None:
        interval_s = min(SWEEP_S, *(limit_s / 4 for limit_s in self._limits_s.values()))
        self._sweeping = asyncio.get_running_loop().call_later(interval_s, self._sweep_later)

    def _sweep_later(self) -> None:
        """Sweep after what has arrived was read: after a pause of the process, that may be much."""
        asyncio.get_running_loop().call_soon(self._sweep)

    def _sweep(self) -> None:
        """End the connections that have waited too long, and log what was closed."""
        now = asyncio.get_running_loop().time()
        for phase, limit_s in self._limits_s.items():
            queue = self._queues[phase]
            while queue and now - queue[first := next(iter(queue))] >= limit_s:
                if phase is not Phase.IDLE:
                    self.count_closed(f"{phase.name.lower()}_too_long")
                first.time_out()
        if self._closed and now - self._logged_at >= LOG_EVERY_S:
            log.warning("api.connections_closed", reasons=dict(self._closed), open=self.open)
            self._closed.clear()
            self._logged_at = now
        self._sweeping = None
        if self.open or self._closed:
            self._schedule_sweep()
