"""A worker with limited memory: `python -m tests.support.memory_limited_worker MIB`, in addition to what it needs to start.

With `killed` as a second argument it is killed, as by the kernel, instead of getting a MemoryError.
"""

import os
import re
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import cli.commands.worker  # noqa: F401 (a worker imports it before its memory is measured)
from cli.main import run
from event_stream.streams.entries import StreamSlice
from event_stream.streams.stream import Stream
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
    """Kill this process on a MemoryError, like the kernel's OOM killer."""
    read_after = Stream.read_after

    def call(*arguments: Any) -> StreamSlice:
        try:
            return read_after(*arguments)
        except MemoryError:
            os.kill(os.getpid(), signal.SIGKILL)
            raise

    Stream.read_after = call  # type: ignore[method-assign, assignment]


if __name__ == "__main__":
    main()
