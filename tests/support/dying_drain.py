"""A drain in a process of its own that dies, or is paused, at a named point: `python -m tests.support.dying_drain`."""

import os
import signal
import sys

from projections.database import engines
from tests.support.points import POINTS, POSTGRESQL_POINTS, Point, on_call, wrapped
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime


def arm(point: Point, number: signal.Signals, call: int) -> None:
    """Let this process get a signal when `point` is reached for the `call`-th time."""
    owner, name, _ = point
    setattr(owner, name, wrapped(point, on_call(call, lambda: os.kill(os.getpid(), number))))


def main() -> None:
    point, number, call, partition = (
        sys.argv[1],
        signal.Signals(int(sys.argv[2])),
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    arm((POINTS | POSTGRESQL_POINTS)[point], number, call)
    if "CLAIMS_SLEEP_AT_MOST" in os.environ:  # less than in earnest, so that a test need not wait so long
        engines._POSTGRESQL_SESSION["idle_in_transaction_session_timeout"] = os.environ["CLAIMS_SLEEP_AT_MOST"]
    runtime = Runtime.from_environ(os.environ)
    run(Drainer(runtime, partition), Lease(runtime.queue.connection, partition), budget_s=60)


if __name__ == "__main__":
    main()
