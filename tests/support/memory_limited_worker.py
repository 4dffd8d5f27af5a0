"""A worker with limited memory: `python -m tests.support.memory_limited_worker MIB`, in addition to what it needs to start.

With `killed` as a second argument it is killed, as by the kernel, instead of getting a MemoryError.
"""

import os
import re
import resource
import signal
import sys
import threading
from pathlib import Path

import cli.commands.worker  # noqa: F401 (a worker imports it before its memory is measured)
from cli.main import run
from projections.error_classes import is_out_of_memory
from workers.drain.drainer import Drainer
from workers.runtime import process_runtime

MIB = 1024 * 1024


def main() -> None:
    threading.stack_size(256 * 1024)  # the stacks of threads count as memory, whether they are used or not
    process_runtime().writer.connect().close()
    used_kib = int(re.findall(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[0])
    limit = used_kib * 1024 + int(sys.argv[1]) * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if "killed" in sys.argv:
        die_out_of_memory()
    sys.argv[1:] = ["worker"]
    run()


def die_out_of_memory() -> None:
    """Kill this process on a MemoryError, like the kernel's OOM killer."""
    recover = Drainer.recover

    def call(drainer: Drainer, error: Exception) -> float:
        if is_out_of_memory(error):
            os.kill(os.getpid(), signal.SIGKILL)
        return recover(drainer, error)

    Drainer.recover = call  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
