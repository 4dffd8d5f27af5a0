"""A rebuild that pauses after its first page: `python -m tests.support.paused_rebuild DIRECTORY OPTIONS...`.

It creates a file named after its process in the directory and continues once a file named `go` exists.
"""

import os
import sys
from pathlib import Path

from cli.main import run
from tests.support.failpoints import REBUILD_POINTS, on_nth_call, wrap
from tests.support.servers import wait_until


def main() -> None:
    directory = Path(sys.argv[1])

    def pause() -> None:
        (directory / str(os.getpid())).touch()
        wait_until((directory / "go").exists, "the test lets it continue", 120)

    point = REBUILD_POINTS["while folding"]
    setattr(point[0], point[1], wrap(point, on_nth_call(1, pause)))
    sys.argv[1:] = ["rebuild", *sys.argv[2:]]
    run()


if __name__ == "__main__":
    main()
