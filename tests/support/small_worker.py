"""A worker with little memory: `python -m tests.support.small_worker MIB`, beyond what it needs to start.

With `killed` as a second argument the kernel kills it, instead of refusing it more memory.
"""

import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import cli.commands.processes  # noqa: F401 (what a worker loads, before its memory is measured)
from cli.main import run
from event_stream.entries import StreamSlice
from event_stream.stream import Stream
from workers.runtime import process_runtime

MIB = 1024 * 1024


def main() -> None:
    process_runtime().writer.connect().close()
    used_kib = int(re.findall(r"^VmData:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[0])
    limit = used_kib * 1024 + int(sys.argv[1]) * MIB
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    if "killed" in sys.argv:
        die_out_of_memory()
    sys.argv[1:] = ["worker"]
    run()


def die_out_of_memory() -> None:
    """Do to this process what the kernel does to one that is out of memory."""
    read_from = Stream.read_from

    def call(*arguments: Any) -> StreamSlice:
        try:
            return read_from(*arguments)
        except MemoryError:
            os.kill(os.getpid(), signal.SIGKILL)
            raise

    Stream.read_from = call  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
