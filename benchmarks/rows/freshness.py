"""How soon an event that is appended to an idle system shows in a read, beside the start of a bare RQ job."""

import http.client
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from uuid import uuid4

from benchmarks.asking import Api, api
from benchmarks.place import Place
from benchmarks.references import bare_job
from benchmarks.results import percentile
from benchmarks.row import Contestants, Figures, Goal, Row
from benchmarks.running import MeasureError
from event_stream import Producer
from event_stream.envelope import time_text
from event_stream.settings import StreamSettings
from event_stream.stream import Appended
from tests.support.events import PROJECT, event
from tests.support.servers import wait_until

_TENANT = "ten_0"
_TIMEOUT_S = 30.0
_LOOK_EVERY_S = 0.0005


@contextmanager
def _contestants(place: Place) -> Iterator[Contestants]:
    place.clear()
    with ExitStack() as stack:
        url = stack.enter_context(place.database())
        stack.enter_context(place.command("worker", url))
        stack.enter_context(place.command("dispatcher", url))
        asked = stack.enter_context(api(place, url))
        queue = stack.enter_context(bare_job.worker(place))
        wait_until(lambda: place.client.scard("rq:workers:projector") == 1, "the worker is ready")
        system = _System(place, asked)
        stack.callback(system.close)
        system.begin()
        yield {
            "append to read": lambda: _percentiles(system.wait_s, place.size.waits),
            "bare job": lambda: _percentiles(partial(bare_job.wait_s, place, queue), place.size.waits),
        }


class _System:
    """A producer and a reader of one project."""

    def __init__(self, place: Place, asked: Api) -> None:
        settings = StreamSettings(partitions=place.stream.partitions)
        self._producer = Producer.from_url(place.redis.url, settings)
        self._path, self._headers = asked.activity(_TENANT, PROJECT)
        self._http = http.client.HTTPConnection("127.0.0.1", asked.port, timeout=20)

    def begin(self) -> None:
        """Create the project, and see that an event gets through."""
        created = event("project.created.v1", tenantid=_TENANT, time=time_text(time.time_ns() // 1000))
        self._await_projected(self._producer.append(created))
        self.wait_s()

    def wait_s(self) -> float:
        """Return the seconds from before an event is appended until an answer over HTTP has shown it."""
        summary = str(uuid4())
        made = event(
            "watchdog.evaluated.v1", {"summary": summary}, tenantid=_TENANT, time=time_text(time.time_ns() // 1000)
        )
        # Connected anew, as the API closes what was idle for seconds, but before the clock runs.
        self._http.close()
        self._http.connect()
        began = time.perf_counter()
        # Asked only once it should be there: a reader that asks all the time would compete for the cores.
        self._await_projected(self._producer.append(made))
        while summary not in self._answer():
            if time.perf_counter() - began > _TIMEOUT_S:
                raise MeasureError("an event that was projected does not show")
        return time.perf_counter() - began

    def _await_projected(self, position: Appended) -> None:
        deadline = time.monotonic() + _TIMEOUT_S
        while not self._producer.is_projected(position):
            if time.monotonic() > deadline:
                raise MeasureError(f"{position} was not projected within {_TIMEOUT_S:g} s")
            time.sleep(_LOOK_EVERY_S)

    def _answer(self) -> str:
        self._http.request("GET", self._path, headers=dict(self._headers))
        return self._http.getresponse().read().decode()

    def close(self) -> None:
        self._http.close()


def _percentiles(wait_s: Callable[[], float], count: int) -> Figures:
    """Return percentiles of waits, each beginning at a moment of its own on a system that is idle again."""
    chance = random.Random(1)
    waits_s = []
    for _ in range(count):
        time.sleep(chance.uniform(0.08, 0.16))
        waits_s.append(wait_s())
    return {"p50 ms": percentile(waits_s, 50) * 1000, "p99 ms": percentile(waits_s, 99) * 1000}


row = Row(
    "freshness",
    "one event appended to an idle system, until a read over HTTP shows it",
    (
        Goal("p50 ms", "append to read", at_most=10),
        Goal("p99 ms", "append to read", at_most=40),
    ),
    _contestants,
)
