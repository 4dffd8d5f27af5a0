"""A command that kills itself at a failpoint of a rebuild.

`python -m tests.support.crashing_rebuild POINT CALL COMMAND`.
"""

import os
import signal
import sys
from importlib import import_module

from cli.main import MODULES, run
from tests.support.failpoints import REBUILD_POINTS, on_nth_call, wrap


def main() -> None:
    import_module(MODULES[sys.argv[3]])  # before the failpoint is set: imported names keep the original function
    point, call = REBUILD_POINTS[sys.argv[1]], int(sys.argv[2])
    owner, name, _ = point
    setattr(owner, name, wrap(point, on_nth_call(call, lambda: os.kill(os.getpid(), signal.SIGKILL))))
    sys.argv[1:] = sys.argv[3:]
    run()


if __name__ == "__main__":
    main()
