"""Named points of a drain or a rebuild, and what a test lets happen to whoever reaches one.

The product knows nothing of these points: each is a function of it, wrapped here.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeAlias

import psycopg
import pytest

from event_stream.stream import Stream
from projections.lifecycle import pending_rebuilds, rebuild
from projections.transaction import checkpoint, dead_letters, event_log
from workers.drain.batch_reader import BatchReader
from workers.jobs.lease import Lease

Point: TypeAlias = tuple[Any, str, str]
Act: TypeAlias = Callable[[], None]

POINTS: dict[str, Point] = {
    "before read": (BatchReader, "take", "before"),
    "after read": (BatchReader, "take", "after"),
    "after claim": (checkpoint, "claim", "after"),
    "inside accept": (event_log, "inserting", "after"),
    "after fold": (dead_letters, "park", "before"),
    "before commit": (checkpoint, "advance", "after"),
    "after commit": (Stream, "publish_projected", "before"),
    "before the lease is released": (Lease, "release", "before"),
}
# Reached on PostgreSQL only.
POSTGRESQL_POINTS: dict[str, Point] = {
    "inside COPY": (psycopg.Copy, "write_row", "after"),
    "after many statements at once": (psycopg.Cursor, "executemany", "after"),
}
REBUILD_POINTS: dict[str, Point] = {
    "while folding": (event_log, "read_history", "after"),
    "after the claim": (checkpoint, "claim_as_it_is", "after"),
    "while comparing": (rebuild, "rows_of", "before"),
    "while writing": (rebuild, "upsert_rows", "after"),
    "before it is settled": (pending_rebuilds, "settle", "before"),
    "before its commit": (pending_rebuilds, "settle", "after"),
}

_here = threading.local()


class ProcessDiedError(BaseException):
    """Thrown at a point in place of SIGKILL: no handler of errors gets it, open transactions are rolled back."""


def wrapped(point: Point, reached: Act) -> Callable[..., Any]:
    """Return the function that a point is, which calls `reached` before or after its work."""
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


def on_call(number: int, act: Act) -> Act:
    """Return what acts when it is called for the `number`-th time."""
    calls = [0]

    def call() -> None:
        calls[0] += 1
        if calls[0] == number:
            act()

    return call


def strike(patch: pytest.MonkeyPatch, point: str, fault: Act, number: int = 3) -> None:
    """Let `fault` happen once, when this process comes to `point` for the `number`-th time."""
    owner, name, _ = POINTS[point]
    patch.setattr(owner, name, wrapped(POINTS[point], on_call(number, fault)))


def install(patch: pytest.MonkeyPatch) -> None:
    """Make every point tell the thread that reaches it; `at_point` says what happens there."""
    for name, point in POINTS.items():
        patch.setattr(point[0], point[1], wrapped(point, _telling(name)))


@contextmanager
def at_point(point: str, number: int, act: Act) -> Iterator[None]:
    """Within this block let this thread `act` when it reaches `point` for the `number`-th time."""
    count = on_call(number, act)

    def reached(here: str) -> None:
        if here == point:
            count()

    _here.reached = reached
    try:
        yield
    finally:
        del _here.reached


def _telling(point: str) -> Act:
    def tell() -> None:
        reached = getattr(_here, "reached", None)
        if reached is not None:
            reached(point)

    return tell
