"""A command that dies at a named point of a rebuild: `python -m tests.support.dying_rebuild POINT CALL COMMAND`."""

import os
import signal
import sys
from importlib import import_module

from cli.main import MODULES, run
from tests.support.points import REBUILD_POINTS, on_call, wrapped


def main() -> None:
    import_module(MODULES[sys.argv[3]])  # what copies a function from another module keeps it as it is there
    point, call = REBUILD_POINTS[sys.argv[1]], int(sys.argv[2])
    owner, name, _ = point
    setattr(owner, name, wrapped(point, on_call(call, lambda: os.kill(os.getpid(), signal.SIGKILL))))
    sys.argv[1:] = sys.argv[3:]
    run()


if __name__ == "__main__":
    main()
