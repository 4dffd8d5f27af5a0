"""A drain process that sends itself a signal at a failpoint.

`python -m tests.support.crashing_drain POINT SIGNAL CALL PARTITION`.
"""

import os
import signal
import sys

from projections.database import postgresql_engine
from tests.support.failpoints import POINTS, POSTGRESQL_POINTS, Point, on_nth_call, wrap
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime


def arm(point: Point, number: signal.Signals, call: int) -> None:
    """Send this process a signal when it reaches `point` for the `call`-th time."""
    owner, name, _ = point
    setattr(owner, name, wrap(point, on_nth_call(call, lambda: os.kill(os.getpid(), number))))


def main() -> None:
    point, number, call, partition = (
        sys.argv[1],
        signal.Signals(int(sys.argv[2])),
        int(sys.argv[3]),
        int(sys.argv[4]),
    )
    arm((POINTS | POSTGRESQL_POINTS)[point], number, call)
    if "TEST_IDLE_CLAIM_TIMEOUT" in os.environ:  # shorter than in production, so that tests do not have to wait
        postgresql_engine.SESSION["idle_in_transaction_session_timeout"] = os.environ["TEST_IDLE_CLAIM_TIMEOUT"]
    runtime = Runtime.from_environ(os.environ)
    run(Drainer(runtime, partition), Lease(runtime.queue.connection, partition), budget_s=60)


if __name__ == "__main__":
    main()
