"""How fast the product drains a backlog: real workers and a real dispatcher, timed by what they publish."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil

from benchmarks.machine import CpuClock
from benchmarks.mixes import PARTITIONS, Entry
from benchmarks.place import Place
from benchmarks.row import Figures, Measure
from benchmarks.running import MeasureError
from tests.support.servers import wait_until

_LOOK_EVERY_S = 0.01
_STALLED_S = 60.0


def drain(place: Place, backlog: list[Entry], workers: int = 1) -> Measure:
    """Measure workers on a PostgreSQL that is empty."""

    def measure() -> Figures:
        with place.database() as url:
            return timed_drain(place, backlog, url, workers)

    return measure


def timed_drain(place: Place, backlog: list[Entry], database_url: str, workers: int = 1) -> Figures:
    """Return events per second from the first batch that was committed to the last, and how many cores were busy.

    The workers stand ready before the dispatcher rings, so no process's start is in it.
    """
    place.let_wait(backlog)
    with ready(place, database_url, workers) as processes:
        wait_until(lambda: projected(place) > 0, "the drain begins")
        clock, began, at_first, own_before_s = CpuClock(), time.perf_counter(), projected(place), _cpu_s(processes)
        await_projected(place, len(backlog))
        took_s = time.perf_counter() - began
        return {
            "events/s": (len(backlog) - at_first) / took_s,
            "cores busy": clock.busy_cores(),
            "cores of workers": (_cpu_s(processes) - own_before_s) / took_s,
        }


@contextmanager
def ready(place: Place, database_url: str, workers: int = 1) -> Iterator[list[psutil.Process]]:
    """Run workers and, once they are idle, a dispatcher; yields the workers."""
    with ExitStack() as stack:
        started = [stack.enter_context(place.command("worker", database_url)) for _ in range(workers)]
        wait_until(lambda: place.client.scard("rq:workers") == workers, f"{workers} workers are ready")
        stack.enter_context(place.command("dispatcher", database_url))
        yield [psutil.Process(each.pid) for each in started]


def await_projected(place: Place, events: int, look: Callable[[], object] = lambda: None) -> None:
    """Return when so many events are projected, looking at something meanwhile; raises if nothing moves any more."""
    seen, moved_at = 0, time.monotonic()
    while (now := projected(place)) < events:
        if now != seen:
            seen, moved_at = now, time.monotonic()
        if time.monotonic() - moved_at > _STALLED_S:
            raise MeasureError(f"the drain stopped at {now:,} of {events:,} events\n{place.said()}")
        look()
        time.sleep(_LOOK_EVERY_S)


def projected(place: Place) -> int:
    """Return how many events the workers say they have projected."""
    return sum(progress.entries for progress in place.stream.projected(range(PARTITIONS)).values())


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)
