"""Starts, kills, pauses and restarts the processes and servers of one run."""

import os
import pickle
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from heapq import heappop, heappush
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil
import psycopg
from redis import Redis
from redis.exceptions import RedisError

from event_stream.producer import Prepared
from event_stream.streams.stream_keys import stream_key
from tests.chaos import entry_points
from tests.chaos.clients import CONNECTIONS_MAX, Reader, SilentClients, UnreadingClients
from tests.chaos.plan import PARTITIONS, WORKERS, Fault, Kind, Plan, Sent
from tests.support.http_clients import is_listening
from tests.support.servers import PostgresServer, RedisServer, free_port, wait_until

_context = get_context("forkserver")
_context.set_forkserver_preload(["tests.chaos.entry_points"])
LOOK_EVERY_S = 0.01
AGAIN_AFTER_S = 0.05


@dataclass
class ManagedProcess:
    """A process that is restarted whenever it ends, except during a fault."""

    target: Callable[..., None]
    arguments: tuple[Any, ...]
    process: ForkServerProcess | None = None
    held_down: int = 0
    starts: int = 0

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.is_alive()

    def keep_running(self) -> None:
        """Start it if it should run and does not."""
        if self.held_down or self.is_alive or (self.process is not None and self.process.exitcode == 0):
            return
        self.process = _context.Process(target=self.target, args=self.arguments, daemon=True)
        self.process.start()
        self.starts += 1

    def kill(self) -> bool:
        """Kill it; returns whether SIGKILL ended it."""
        if self.process is None or not self.process.is_alive():
            return False
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL

    def pause(self) -> bool:
        """Pause it; returns whether it is stopped."""
        if self.process is None or self.process.pid is None or not self.process.is_alive():
            return False
        os.kill(self.process.pid, signal.SIGSTOP)
        with suppress(psutil.Error):
            observed = psutil.Process(self.process.pid)
            wait_until(lambda: observed.status() == psutil.STATUS_STOPPED, "a process is stopped")
            return True
        return False

    def resume(self) -> None:
        """Resume it if it was paused."""
        if self.process is not None and self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, signal.SIGCONT)


@dataclass
class Chaos:
    """One run. `happened` counts the faults that happened; `queued_max` is the longest queue observed.

    `sent` are the producer's entries, and `huge` those of the faults.
    """

    plan: Plan
    sent: list[Sent]
    redis: RedisServer
    postgres: PostgresServer | None
    database_url: str
    directory: Path
    happened: Counter[str] = field(default_factory=Counter)
    queued_max: int = 0
    huge: list[Sent] = field(default_factory=list)

    def __post_init__(self) -> None:
        environ = {
            "REDIS_URL": self.redis.url,
            "DATABASE_URL": self.database_url.replace("+psycopg", ""),
            "PROJECTOR_PARTITIONS": str(PARTITIONS),
        }
        self.log = self.directory / "processes.log"
        self.progress = self.directory / "appended"
        self.workers = [ManagedProcess(entry_points.command, ("worker", environ, self.log)) for _ in range(WORKERS)]
        self.dispatcher = ManagedProcess(entry_points.command, ("dispatcher", environ, self.log))
        prepared = [Prepared(entry.partition, entry.body) for entry in self.sent]
        traffic = self.directory / "traffic"
        traffic.write_bytes(pickle.dumps(prepared))
        self.producer = ManagedProcess(entry_points.produce, (traffic, environ, self.log, self.progress))
        self.roles = [*self.workers, self.dispatcher, self.producer]
        port = free_port()
        api = environ | {"PORT": str(port), "PROJECTOR_CONNECTIONS_MAX": str(CONNECTIONS_MAX)}
        self.api = ManagedProcess(entry_points.command, ("api", api, self.log))
        self.reader = Reader(port)
        self.client: Any = Redis.from_url(self.redis.url, socket_timeout=1)
        self._scheduled: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def run(self) -> None:
        """Carry out the plan; afterwards everything runs and all entries are appended."""
        assert self.wait_for(lambda: entry_points.appended(self.progress) > 0), "the producer does not start"
        assert self.wait_for(lambda: is_listening(self.reader.port)), "the API does not start"
        self.reader.start()
        began = monotonic()
        for fault in self.plan.faults:
            self._at(began + fault.at_s, partial(self._begin, fault))
        while self._scheduled or entry_points.appended(self.progress) < len(self.sent):
            if self._scheduled and self._scheduled[0][0] <= monotonic():
                heappop(self._scheduled)[-1]()
            self.keep_running()
            assert monotonic() - began < 120, "the producer does not finish"
            sleep(LOOK_EVERY_S)

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 60) -> bool:
        """Keep everything running until a condition holds; returns whether it held within the timeout."""
        deadline = monotonic() + timeout_s
        while not condition():
            if monotonic() > deadline:
                return False
            self.keep_running()
            sleep(LOOK_EVERY_S)
        return True

    def keep_running(self) -> None:
        """Restart ended processes, and record the length of the queue."""
        for role in (*self.roles, self.api):
            role.keep_running()
        with suppress(RedisError):
            self.queued_max = max(self.queued_max, self.client.llen("rq:queue:projector"))

    def end(self) -> None:
        """Kill all processes."""
        self.reader.end()
        for role in (*self.roles, self.api):
            role.kill()
        self.client.close()

    def _at(self, when: float, act: Callable[[], None]) -> None:
        heappush(self._scheduled, (when, next(self._order), act))

    def _begin(self, fault: Fault) -> None:
        """Start a fault; if its process is not running, try again a little later."""
        if self._happens(fault):
            return
        if fault.kind is not Kind.PRODUCER_KILLED or entry_points.appended(self.progress) < len(self.sent):
            self._at(monotonic() + AGAIN_AFTER_S, partial(self._begin, fault))

    def _happens(self, fault: Fault) -> bool:
        worker = self.workers[fault.which]
        ways: dict[Kind, Callable[[], bool]] = {
            Kind.WORKER_KILLED: partial(self._kill_for_a_while, fault, worker),
            Kind.DISPATCHER_KILLED: partial(self._kill_for_a_while, fault, self.dispatcher),
            Kind.PRODUCER_KILLED: partial(self._kill_for_a_while, fault, self.producer),
            Kind.ALL_KILLED: partial(self._kill_for_a_while, fault, *self.roles),
            Kind.WORKER_PAUSED: partial(self._pause, fault, worker),
            Kind.DISPATCHER_PAUSED: partial(self._pause, fault, self.dispatcher),
            Kind.REDIS_KILLED: partial(self._restart_redis, fault),
            Kind.POSTGRESQL_KILLED: partial(self._restart_postgres, fault),
            Kind.CLIENTS_SILENT: partial(self._connect, fault, SilentClients),
            Kind.CLIENTS_UNREADING: partial(self._connect, fault, UnreadingClients),
            Kind.HUGE_ENTRY: partial(self._append_huge_entry, fault),
        }
        return ways[fault.kind]()

    def _kill_for_a_while(self, fault: Fault, *chosen: ManagedProcess) -> bool:
        def release() -> None:
            for role in killed:
                role.held_down -= 1

        killed = [role for role in chosen if role.kill()]
        for role in killed:
            role.held_down += 1
        self.happened[fault.kind] += bool(killed)
        self._at(monotonic() + fault.for_s, release)
        return bool(killed)

    def _pause(self, fault: Fault, role: ManagedProcess) -> bool:
        is_paused = role.pause()
        self.happened[fault.kind] += is_paused
        self._at(monotonic() + fault.for_s, role.resume)
        return is_paused

    def _connect(self, fault: Fault, clients: type[SilentClients] | type[UnreadingClients]) -> bool:
        connected = clients(self.reader.port)

        def end() -> None:
            self.happened[fault.kind] += connected.end()

        self._at(monotonic() + fault.for_s, end)
        return True

    def _restart_redis(self, fault: Fault) -> bool:
        if self.redis.process is None or self.redis.process.poll() is not None:
            return False  # already down

        def restart() -> None:
            self.redis.start()
            self.happened[fault.kind] += self.client.info("server")["run_id"] != before

        before = self.client.info("server")["run_id"]
        self.redis.kill()
        self._at(monotonic() + fault.for_s, restart)
        return True

    def _restart_postgres(self, fault: Fault) -> bool:
        postgres = self.postgres
        if postgres is None or postgres.process is None or postgres.process.poll() is not None:
            return False

        def restart() -> None:
            postgres.start()
            self.happened[fault.kind] += _started_at(postgres) != before

        before = _started_at(postgres)
        postgres.crash()
        self._at(monotonic() + fault.for_s, restart)
        return True

    def _append_huge_entry(self, fault: Fault) -> bool:
        """Append a huge entry, while the other traffic goes on; after an error it is appended again, as a producer does."""
        entry = fault.huge_entry
        try:
            with Redis.from_url(self.redis.url, socket_timeout=30) as client:
                client.xadd(stream_key(entry.partition), {"event": entry.body})
        except RedisError:
            return False
        self.huge.append(entry)
        self.happened[fault.kind] += 1
        return True


def _started_at(postgres: PostgresServer) -> Any:
    with psycopg.connect(postgres.url()) as connection:
        return connection.execute("SELECT pg_postmaster_start_time()").fetchone()
