"""Tends what `projector up` has started: what died is started again, what has stalled is killed so that it is.

Keys:

    projector:up-probe  string  written by `projector up` to see whether Redis accepts writes; expires
"""

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
from workers.reporting.status import read_dispatchers, read_workers
from workers.runtime import Runtime, redis_client
from workers.telemetry.progress import STALLED_AFTER_S

START_TIMEOUT_S = 60.0
LOOK_TIMEOUT_S = 1.0
LOOK_EVERY_S = 5.0
BEATING = ("worker", "dispatcher")  # their loops give signs of life in Redis
LOOK_KEY = "projector:up-probe"


def watch(supervisor: Supervisor, runtime: Runtime, operations_url: str, stopping: threading.Event) -> None:
    """Restart what dies or stalls, until told to stop; the API answers at `operations_url`, Redis to `runtime`."""
    servers = [
        Server("api", partial(is_ok, f"{operations_url}/healthz", LOOK_TIMEOUT_S)),
        Server("valkey", partial(_answers, runtime.stream.redis)),
    ]
    ear = HeartbeatProbe(runtime.queue.connection)
    look_at = time.monotonic()
    while not stopping.wait(POLL_S):
        supervisor.tend()
        if time.monotonic() < look_at:
            continue
        kill_stalled(supervisor, runtime, ear)
        for server in servers:
            if server.is_silent():
                supervisor.kill_all(server.name, why=f"no answer for more than {STALLED_AFTER_S:.0f} s")
        look_at = time.monotonic() + LOOK_EVERY_S


@dataclass
class Server:
    """A process that answers whenever it is asked; `answers` asks it."""

    name: str
    answers: Callable[[], bool]
    answered_at: float = field(default_factory=time.monotonic)

    def is_silent(self) -> bool:
        """Ask; return whether it has not answered for STALLED_AFTER_S, once in that time."""
        answers = self.answers()
        silent = not answers and time.monotonic() - self.answered_at > STALLED_AFTER_S
        if answers or silent:
            self.answered_at = time.monotonic()
        return silent


@dataclass
class HeartbeatProbe:
    """Tells whether a silence is a process's own: a Redis that is full, say, takes signs of life from nobody."""

    redis: Redis
    clock: Callable[[], float] = time.monotonic
    deaf_at: float = float("-inf")

    def hears(self) -> bool:
        """Return whether Redis takes what is written now, and did at every look of the last STALLED_AFTER_S."""
        try:
            self.redis.set(LOOK_KEY, 1, ex=60)
        except RedisError:
            self.deaf_at = self.clock()
        return self.clock() - self.deaf_at > STALLED_AFTER_S


def kill_stalled(supervisor: Supervisor, runtime: Runtime, ear: HeartbeatProbe) -> None:
    """Kill workers and dispatchers that are silent: a paused worker holds SQLite's write lock for ever.

    One that has not been heard of at all stalled while it started, or Redis has forgotten it. While Redis hears nobody
    none is killed: a dispatcher that was could not go on emptying it.
    """
    if not ear.hears():
        return
    try:
        found = [*read_workers(runtime), *read_dispatchers(runtime)]
    except RedisError:
        return
    here = [process for process in found if process.host == socket.gethostname()]
    # In a container that was started again numbers repeat: the latest sign of life is the one who lives.
    by_age = sorted(here, key=lambda each: each.heartbeat_age_s, reverse=True)
    heartbeat_age_s = {each.pid: each.heartbeat_age_s for each in by_age}
    for child in supervisor.children:
        if child.name in BEATING and child.pid is not None:
            longest_s = STALLED_AFTER_S if child.pid in heartbeat_age_s else START_TIMEOUT_S
            if heartbeat_age_s.get(child.pid, child.age_s) > longest_s:
                supervisor.kill(child, why=f"silent for more than {longest_s:.0f} s")


def _answers(client: Redis) -> bool:
    """Whether Redis says anything at all; while it loads its data it says that it is busy."""
    try:
        client.ping()
    except (BusyLoadingError, ResponseError):
        return True
    except RedisError:
        return False
    return True


def impatient_redis(url: str) -> Redis:
    """Return a client that soon gives up: a silent server must not keep us from hearing that we are to end."""
    return redis_client(url, LOOK_TIMEOUT_S, retries=0)


def is_ok(url: str, timeout_s: float = 5.0) -> bool:
    """Return whether an address of ours answers 200 in time."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
