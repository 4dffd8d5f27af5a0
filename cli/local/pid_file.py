"""A file that lists the running child processes, so that the next supervisor can kill those left by a killed one."""

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
import structlog

CREATED_TOLERANCE_S = 1.0

log = structlog.get_logger()


def write(file: Path, pids: Iterable[int]) -> None:
    """Store the process ids, each with the time at which the process was created."""
    listed = []
    for pid in pids:
        with suppress(psutil.Error):
            listed.append([pid, psutil.Process(pid).create_time()])
    draft = file.with_suffix(".new")
    try:
        draft.write_text(json.dumps(listed))
        draft.replace(file)
    except OSError as error:  # a full disk is no reason to stop the processes
        log.warning("pid_file.write_failed", error=str(error))


def kill_listed(file: Path) -> int:
    """Kill the listed processes that still run, and remove the file. Returns how many were killed."""
    killed = 0
    for pid, created in _read(file):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            # Another process may have got the same id since; only its creation time differs.
            if abs(process.create_time() - created) < CREATED_TOLERANCE_S:
                process.kill()
                process.wait(5)
                killed += 1
    file.unlink(missing_ok=True)
    return killed


def _read(file: Path) -> list[tuple[int, float]]:
    try:
        return [(int(pid), float(created)) for pid, created in json.loads(file.read_text())]
    except (OSError, ValueError):
        return []
