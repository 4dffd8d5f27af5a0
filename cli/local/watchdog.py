"""The watchdog of `projector up`: restarts processes that have exited, and kills those that have stalled."""

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from redis import Redis
from redis.exceptions import BusyLoadingError, RedisError, ResponseError

from cli.local.supervisor import POLL_S, Supervisor
from workers.reporting.heartbeats import read_dispatchers, read_workers
from workers.runtime import Runtime, redis_client
from workers.telemetry.progress import STALLED_AFTER_S
from workers.telemetry.write_probe import write_probe

START_TIMEOUT_S = 60.0
PROBE_TIMEOUT_S = 1.0
PROBE_EVERY_S = 5.0
WITH_HEARTBEAT = ("worker", "dispatcher")  # these processes write heartbeats to Redis


def watch(supervisor: Supervisor, runtime: Runtime, operations_url: str, stopping: threading.Event) -> None:
    """Restart processes that exit or stall, until `stopping` is set."""
    servers = [
        ServerProbe("api", partial(is_ok, f"{operations_url}/healthz", PROBE_TIMEOUT_S)),
        ServerProbe("valkey", partial(_is_responding, runtime.stream.redis)),
    ]
    heartbeats = HeartbeatProbe(runtime.queue.connection)
    probe_at = time.monotonic()
    while not stopping.wait(POLL_S):
        supervisor.restart_exited()
        if time.monotonic() < probe_at:
            continue
        kill_stalled(supervisor, runtime, heartbeats)
        for server in servers:
            if server.is_stalled():
                supervisor.kill_all(server.name, reason=f"no answer for more than {STALLED_AFTER_S:.0f} s")
        probe_at = time.monotonic() + PROBE_EVERY_S


@dataclass
class ServerProbe:
    """Detects that a server has stopped responding. `is_responding` sends it one request."""

    name: str
    is_responding: Callable[[], bool]
    responded_at: float = field(default_factory=time.monotonic)

    def is_stalled(self) -> bool:
        """Send a request. Returns whether the last response is older than STALLED_AFTER_S, once per such period."""
        is_responding = self.is_responding()
        is_stalled = not is_responding and time.monotonic() - self.responded_at > STALLED_AFTER_S
        if is_responding or is_stalled:
            self.responded_at = time.monotonic()
        return is_stalled


@dataclass
class HeartbeatProbe:
    """Checks that Redis accepts writes. While it does not, a missing heartbeat does not prove a stall."""

    redis: Redis
    clock: Callable[[], float] = time.monotonic
    failed_at: float = float("-inf")

    def is_reliable(self) -> bool:
        """Write the probe key. Returns whether that worked, now and at every probe of the last STALLED_AFTER_S."""
        try:
            write_probe(self.redis)
        except RedisError:
            self.failed_at = self.clock()
        return self.clock() - self.failed_at > STALLED_AFTER_S


def kill_stalled(supervisor: Supervisor, runtime: Runtime, heartbeats: HeartbeatProbe) -> None:
    """Kill workers and dispatchers without a fresh heartbeat: a suspended worker would keep SQLite's write lock.

    A process without any heartbeat has stalled during its start, or Redis has lost its data. Nothing is killed while
    Redis does not accept writes: a full Redis needs the running dispatcher, which trims its streams.
    """
    if not heartbeats.is_reliable():
        return
    try:
        found = [*read_workers(runtime), *read_dispatchers(runtime)]
    except RedisError:
        return
    local = [process for process in found if process.host == socket.gethostname()]
    # Process ids repeat when a container is restarted: the freshest heartbeat belongs to the running process.
    oldest_first = sorted(local, key=lambda process: process.heartbeat_age_s, reverse=True)
    heartbeat_age_s = {process.pid: process.heartbeat_age_s for process in oldest_first}
    for child in supervisor.children:
        if child.name in WITH_HEARTBEAT and child.pid is not None:
            limit_s = STALLED_AFTER_S if child.pid in heartbeat_age_s else START_TIMEOUT_S
            if heartbeat_age_s.get(child.pid, child.age_s) > limit_s:
                supervisor.kill(child, reason=f"no heartbeat for more than {limit_s:.0f} s")


def fail_fast_redis(url: str) -> Redis:
    """Return a client that gives up within PROBE_TIMEOUT_S, so that a silent Redis does not delay a stop."""
    return redis_client(url, PROBE_TIMEOUT_S, retries=0)


def is_ok(url: str, timeout_s: float = 5.0) -> bool:
    """Return whether a URL of this deployment answers 200 in time."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:  # noqa: S310 (a URL of this deployment)
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _is_responding(client: Redis) -> bool:
    """Return whether Redis responds at all; an error such as "loading the dataset" counts as a response."""
    try:
        client.ping()
    except (BusyLoadingError, ResponseError):
        return True
    except RedisError:
        return False
    return True
