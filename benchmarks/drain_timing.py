"""Measures how fast real workers drain a backlog, by the progress that they publish in Redis."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil

from benchmarks.machine import CpuClock
from benchmarks.row import Figures, Measurement
from benchmarks.sandbox import Sandbox
from benchmarks.subprocesses import BenchmarkError
from benchmarks.workloads import PARTITIONS, BacklogEntry
from tests.support.servers import wait_until

_POLL_INTERVAL_S = 0.01
_STALL_TIMEOUT_S = 60.0


def measure_drain(sandbox: Sandbox, backlog: list[BacklogEntry], workers: int = 1) -> Measurement:
    """Return the measurement of workers on an empty PostgreSQL database."""

    def measure() -> Figures:
        with sandbox.database() as url:
            return timed_drain(sandbox, backlog, url, workers)

    return measure


def timed_drain(sandbox: Sandbox, backlog: list[BacklogEntry], database_url: str, workers: int = 1) -> Figures:
    """Return the events per second from the first committed batch to the last, and the number of busy cores.

    The workers are idle before the dispatcher starts, so the start of a process is not measured.
    """
    sandbox.load_backlog(backlog)
    with running_workers(sandbox, database_url, workers) as processes:
        wait_until(lambda: projected_events(sandbox) > 0, "the drain begins")
        clock, began, first_batch, cpu_before_s = (
            CpuClock(),
            time.perf_counter(),
            projected_events(sandbox),
            _cpu_s(processes),
        )
        wait_until_projected(sandbox, len(backlog))
        took_s = time.perf_counter() - began
        return {
            "events/s": (len(backlog) - first_batch) / took_s,
            "cores busy": clock.busy_cores(),
            "cores of workers": (_cpu_s(processes) - cpu_before_s) / took_s,
        }


@contextmanager
def running_workers(sandbox: Sandbox, database_url: str, workers: int = 1) -> Iterator[list[psutil.Process]]:
    """Run workers and, once they are idle, a dispatcher. Yields the workers."""
    with ExitStack() as stack:
        started = [stack.enter_context(sandbox.command("worker", database_url)) for _ in range(workers)]
        wait_until(lambda: sandbox.client.scard("rq:workers") == workers, f"{workers} workers are ready")
        stack.enter_context(sandbox.command("dispatcher", database_url))
        yield [psutil.Process(each.pid) for each in started]


def wait_until_projected(sandbox: Sandbox, events: int, on_poll: Callable[[], object] = lambda: None) -> None:
    """Wait until `events` are projected, and call `on_poll` at each poll. Raises BenchmarkError if the drain stalls."""
    projected, progressed_at = 0, time.monotonic()
    while (current := projected_events(sandbox)) < events:
        if current != projected:
            projected, progressed_at = current, time.monotonic()
        if time.monotonic() - progressed_at > _STALL_TIMEOUT_S:
            raise BenchmarkError(f"the drain stopped at {current:,} of {events:,} events\n{sandbox.log_tail()}")
        on_poll()
        time.sleep(_POLL_INTERVAL_S)


def projected_events(sandbox: Sandbox) -> int:
    """Return how many events the workers have projected, as they report it."""
    return sum(progress.entries for progress in sandbox.stream.projected(range(PARTITIONS)).values())


def _cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)
