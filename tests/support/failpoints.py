"""Failpoints: named points of a drain or a rebuild at which a test injects a fault.

The product does not know them: each is a function of the product that is wrapped here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeAlias

import psycopg
import pytest

from event_stream.streams.stream import Stream
from projections.lifecycle import log_history, pending_rebuilds, rebuild
from projections.transaction import checkpoint_table, dead_letters, event_log
from workers.drain.batch_reader import BatchReader
from workers.jobs.lease import Lease

Point: TypeAlias = tuple[Any, str, str]
Action: TypeAlias = Callable[[], None]

POINTS: dict[str, Point] = {
    "before read": (BatchReader, "next_batch", "before"),
    "after read": (BatchReader, "next_batch", "after"),
    "after claim": (checkpoint_table, "claim", "after"),
    "inside accept": (event_log, "appending", "after"),
    "after fold": (dead_letters, "park", "before"),
    "before commit": (checkpoint_table, "advance", "after"),
    "after commit": (Stream, "publish_projected", "before"),
    "before the lease is released": (Lease, "release", "before"),
}
# Reached on PostgreSQL only.
POSTGRESQL_POINTS: dict[str, Point] = {
    "inside COPY": (psycopg.Copy, "write_row", "after"),
    "after many statements at once": (psycopg.Cursor, "executemany", "after"),
}
REBUILD_POINTS: dict[str, Point] = {
    "while folding": (log_history, "read_history", "after"),
    "after the claim": (checkpoint_table, "claim_current", "after"),
    "while comparing": (rebuild, "iter_tenant_rows", "before"),
    "while writing": (rebuild, "upsert_rows", "after"),
    "before its request is completed": (pending_rebuilds, "complete", "before"),
    "before its commit": (pending_rebuilds, "complete", "after"),
}

_here = threading.local()


class SimulatedCrashError(BaseException):
    """Raised at a failpoint instead of SIGKILL: no error handler catches it, open transactions are rolled back."""


def wrap(point: Point, reached: Action) -> Callable[..., Any]:
    """Return the function of a failpoint, wrapped so that it calls `reached` before or after its work."""
    owner, name, when = point
    function: Callable[..., Any] = getattr(owner, name)

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            reached()
        result = function(*arguments, **options)
        if when == "after":
            reached()
        return result

    return call


def on_nth_call(number: int, act: Action) -> Action:
    """Return a function that calls `act` on its `number`-th call."""
    calls = [0]

    def call() -> None:
        calls[0] += 1
        if calls[0] == number:
            act()

    return call


def fail_at(patch: pytest.MonkeyPatch, point: str, fault: Action, number: int = 3) -> None:
    """Call `fault` once, when this process reaches `point` for the `number`-th time."""
    owner, name, _ = POINTS[point]
    patch.setattr(owner, name, wrap(POINTS[point], on_nth_call(number, fault)))


def install_failpoints(patch: pytest.MonkeyPatch) -> None:
    """Install all failpoints; each calls the action that `at_failpoint` has set for the current thread."""
    for name, point in POINTS.items():
        patch.setattr(point[0], point[1], wrap(point, _notifying(name)))


@contextmanager
def at_failpoint(point: str, number: int, act: Action) -> Iterator[None]:
    """Within this block, call `act` when this thread reaches `point` for the `number`-th time."""
    count = on_nth_call(number, act)

    def reached(here: str) -> None:
        if here == point:
            count()

    _here.reached = reached
    try:
        yield
    finally:
        del _here.reached


def _notifying(point: str) -> Action:
    def notify() -> None:
        reached = getattr(_here, "reached", None)
        if reached is not None:
            reached(point)

    return notify
