"""How soon a read shows an event that is appended to an idle system, compared with the start of a bare RQ job."""

import http.client
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from uuid import uuid4

from benchmarks.api_process import RunningApi, run_api
from benchmarks.references import bare_job
from benchmarks.results import percentile
from benchmarks.row import BenchmarkRow, Contestants, Figures, Goal
from benchmarks.sandbox import Sandbox
from benchmarks.subprocesses import BenchmarkError
from event_stream import Producer
from event_stream.events.rfc3339 import format_time
from event_stream.settings import StreamSettings
from event_stream.streams.appending import Appended
from tests.support.events import PROJECT, event
from tests.support.servers import wait_until

_TENANT = "ten_0"
_TIMEOUT_S = 30.0
_POLL_INTERVAL_S = 0.0005


@contextmanager
def _contestants(sandbox: Sandbox) -> Iterator[Contestants]:
    sandbox.clear()
    with ExitStack() as stack:
        url = stack.enter_context(sandbox.database())
        stack.enter_context(sandbox.command("worker", url))
        stack.enter_context(sandbox.command("dispatcher", url))
        api = stack.enter_context(run_api(sandbox, url))
        queue = stack.enter_context(bare_job.worker(sandbox))
        wait_until(lambda: sandbox.client.scard("rq:workers:projector") == 1, "the worker is ready")
        system = _System(sandbox, api)
        stack.callback(system.close)
        system.begin()
        yield {
            "append to read": lambda: _percentiles(system.wait_s, sandbox.size.freshness_events),
            "bare job": lambda: _percentiles(partial(bare_job.wait_s, sandbox, queue), sandbox.size.freshness_events),
        }


class _System:
    """A producer and a reader of one project."""

    def __init__(self, sandbox: Sandbox, api: RunningApi) -> None:
        settings = StreamSettings(partitions=sandbox.stream.partitions)
        self._producer = Producer.from_url(sandbox.redis.url, settings)
        self._path, self._headers = api.activity(_TENANT, PROJECT)
        self._http = http.client.HTTPConnection("127.0.0.1", api.port, timeout=20)

    def begin(self) -> None:
        """Create the project, and wait until an event shows."""
        created = event("project.created.v1", tenantid=_TENANT, time=format_time(time.time_ns() // 1000))
        self._await_projected(self._producer.append(created))
        self.wait_s()

    def wait_s(self) -> float:
        """Append an event, and return the seconds until a read over HTTP shows it."""
        summary = str(uuid4())
        evaluation = event(
            "watchdog.evaluated.v1", {"summary": summary}, tenantid=_TENANT, time=format_time(time.time_ns() // 1000)
        )
        # Reconnect before the measurement: the API closes connections that are idle for seconds.
        self._http.close()
        self._http.connect()
        began = time.perf_counter()
        # Read only once the event is projected: constant polling would compete for the cores.
        self._await_projected(self._producer.append(evaluation))
        while summary not in self._read():
            if time.perf_counter() - began > _TIMEOUT_S:
                raise BenchmarkError("the event was projected, but no read shows it")
        return time.perf_counter() - began

    def _await_projected(self, position: Appended) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._producer.is_projected(position):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{position} was not projected within {_TIMEOUT_S:g} s")
            time.sleep(_POLL_INTERVAL_S)

    def _read(self) -> str:
        self._http.request("GET", self._path, headers=dict(self._headers))
        return self._http.getresponse().read().decode()

    def close(self) -> None:
        self._http.close()


def _percentiles(wait_s: Callable[[], float], count: int) -> Figures:
    """Return percentiles of waits that start at random moments, after the system is idle again."""
    generator = random.Random(1)
    waits_s = []
    for _ in range(count):
        time.sleep(generator.uniform(0.08, 0.16))
        waits_s.append(wait_s())
    return {"p50 ms": percentile(waits_s, 50) * 1000, "p99 ms": percentile(waits_s, 99) * 1000}


row = BenchmarkRow(
    "freshness",
    "one event appended to an idle system, until a read over HTTP shows it",
    (
        Goal("p50 ms", "append to read", at_most=10),
        Goal("p99 ms", "append to read", at_most=40),
    ),
    _contestants,
)
