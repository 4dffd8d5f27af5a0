"""A drain in a process of its own that dies, or is paused, at a named point: `python -m tests.support.dying_drain`.

The product knows nothing of these points: each is a function of it, wrapped here.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import psycopg

from event_stream.stream import Stream
from projections import checkpoint, dead_letters, event_log, store
from workers.drain import Drainer, run
from workers.queue import Lease
from workers.runtime import Runtime

Point: TypeAlias = tuple[Any, str, str]

POINTS: dict[str, Point] = {
    "before read": (Stream, "read_from", "before"),
    "after read": (Stream, "read_from", "after"),
    "after claim": (checkpoint, "claim", "after"),
    "inside accept": (event_log, "insert_rows", "after"),
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


def arm(point: Point, number: signal.Signals, on_call: int) -> None:
    """Let this process get a signal when `point` is reached for the `on_call`-th time."""
    owner, name, when = point
    wrapped: Callable[..., Any] = getattr(owner, name)
    calls = [0]

    def signalled() -> None:
        calls[0] += 1
        if calls[0] == on_call:
            os.kill(os.getpid(), number)

    def call(*arguments: Any, **options: Any) -> Any:
        if when == "before":
            signalled()
        result = wrapped(*arguments, **options)
        if when == "after":
            signalled()
        return result

    setattr(owner, name, call)


def main() -> None:
    point, number, on_call, partition = (
        sys.argv[1],
        signal.Signals(int(sys.argv[2])),
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    arm((POINTS | POSTGRESQL_POINTS)[point], number, on_call)
    if "CLAIMS_SLEEP_AT_MOST" in os.environ:  # less than in earnest, so that a test need not wait so long
        store._POSTGRESQL_SESSION["idle_in_transaction_session_timeout"] = os.environ["CLAIMS_SLEEP_AT_MOST"]
    runtime = Runtime.from_environ(os.environ)
    run(Drainer(runtime, partition), Lease(runtime.queue.connection, partition), budget_s=60)


if __name__ == "__main__":
    main()
