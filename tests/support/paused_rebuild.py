"""A rebuild that pauses after its first page: `python -m tests.support.paused_rebuild DIRECTORY OPTIONS...`.

It makes a file named after its process in the directory, and goes on as soon as a file named `go` is there.
"""

import os
import sys
from pathlib import Path

from cli.main import run
from tests.support.points import REBUILD_POINTS, on_call, wrapped
from tests.support.servers import wait_until


def main() -> None:
    directory = Path(sys.argv[1])

    def pause() -> None:
        (directory / str(os.getpid())).touch()
        wait_until((directory / "go").exists, "the test lets it go on", 120)

    point = REBUILD_POINTS["while folding"]
    setattr(point[0], point[1], wrapped(point, on_call(1, pause)))
    sys.argv[1:] = ["rebuild", *sys.argv[2:]]
    run()


if __name__ == "__main__":
    main()
