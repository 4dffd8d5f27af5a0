"""A command that dies at a named point of a rebuild: `python -m tests.support.dying_rebuild POINT CALL COMMAND`."""

import os
import signal
import sys

from cli.main import run
from tests.support.points import REBUILD_POINTS, on_call, wrapped


def main() -> None:
    point, call = REBUILD_POINTS[sys.argv[1]], int(sys.argv[2])
    owner, name, _ = point
    setattr(owner, name, wrapped(point, on_call(call, lambda: os.kill(os.getpid(), signal.SIGKILL))))
    sys.argv[1:] = sys.argv[3:]
    run()


if __name__ == "__main__":
    main()
