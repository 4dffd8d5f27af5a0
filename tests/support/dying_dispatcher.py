"""A dispatcher in a process of its own that dies, or is paused, at a named point:
`python -m tests.support.dying_dispatcher`.

It trims a moment behind the checkpoint instead of a minute, so that a test need not wait for it.
"""

import os
import signal
import sys

from event_stream.stream import Stream
from tests.support.dying_drain import arm
from tests.support.points import Point
from workers.dispatch import dispatcher, trimmer
from workers.dispatch.dispatcher import Dispatcher
from workers.runtime import Runtime

POINTS: dict[str, Point] = {
    "before the sweep's look": (Stream, "ends", "before"),
    "between lease and ring": (dispatcher, "ring", "before"),
    "after the ring": (dispatcher, "ring", "after"),
    "between trim and ring": (Dispatcher, "_ring", "before"),
    "after all rings": (Dispatcher, "_mend_hints", "before"),
    "before a trim": (Stream, "trim", "before"),
    "in the middle of trimming": (Stream, "trim", "after"),
}


def main() -> None:
    point, number, call = sys.argv[1], signal.Signals(int(sys.argv[2])), int(sys.argv[3])
    arm(POINTS[point], number, call)
    trimmer.TRIM_BEHIND_S, trimmer.TRIM_EVERY_S = 0.2, 0.1
    Dispatcher(Runtime.from_environ(os.environ)).run(stopped=lambda: False)


if __name__ == "__main__":
    main()
