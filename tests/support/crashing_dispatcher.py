"""A dispatcher process that sends itself a signal at a failpoint.

`python -m tests.support.crashing_dispatcher POINT SIGNAL CALL`. It trims 0.2 s after the checkpoint instead of a minute,
so that tests do not have to wait.
"""

import os
import signal
import sys

from event_stream.streams.stream import Stream
from tests.support.crashing_drain import arm
from tests.support.failpoints import Point
from workers.dispatch import dispatcher, trimmer
from workers.dispatch.dispatcher import Dispatcher
from workers.runtime import Runtime

POINTS: dict[str, Point] = {
    "before the sweep reads the streams": (Stream, "ends", "before"),
    "between lease and enqueue": (dispatcher, "enqueue_drain", "before"),
    "after the first enqueue": (dispatcher, "enqueue_drain", "after"),
    "between trim and enqueue": (Dispatcher, "_enqueue_drains", "before"),
    "after all drains are enqueued": (Dispatcher, "_repair_hints", "before"),
    "before a trim": (Stream, "trim", "before"),
    "in the middle of trimming": (Stream, "trim", "after"),
}


def main() -> None:
    point, number, call = sys.argv[1], signal.Signals(int(sys.argv[2])), int(sys.argv[3])
    arm(POINTS[point], number, call)
    trimmer.TRIM_AFTER_S, trimmer.TRIM_EVERY_S = 0.2, 0.1
    Dispatcher(Runtime.from_environ(os.environ)).run(stopped=lambda: False)


if __name__ == "__main__":
    main()
