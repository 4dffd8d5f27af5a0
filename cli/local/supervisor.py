"""Keeps processes running: starts them, restarts what dies or stalls, ends them all in order."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import structlog

RESTART_PAUSE_FIRST_S = 0.2
RESTART_PAUSE_MAX_S = 5.0
STEADY_AFTER_S = 10.0
POLL_S = 0.1

log = structlog.get_logger()


@dataclass
class Child:
    """One process that is to run all the time, or `until_done`, which its exit code 0 says.

    `last` children are ended after all others.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    last: bool = False
    until_done: bool = False
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float = 0.0
    pause_s: float = RESTART_PAUSE_FIRST_S

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process and self.process.poll() is None else None

    @property
    def age_s(self) -> float:
        """How long ago it was started last."""
        return time.monotonic() - self.started_at

    def start(self) -> None:
        """Start it, away from the terminal's signals: ending is the supervisor's to order."""
        self.process = subprocess.Popen(
            list(self.command),
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )
        self.started_at = time.monotonic()

    def tend(self) -> bool:
        """Start it if it is due; returns whether it was started."""
        now = time.monotonic()
        if self.pid is not None or self._is_done():
            return False
        if self.process is not None:
            log.warning("process.exited", process=self.name, exit_code=self.process.returncode)
            steady = self.age_s > STEADY_AFTER_S
            self.pause_s = RESTART_PAUSE_FIRST_S if steady else min(self.pause_s * 2, RESTART_PAUSE_MAX_S)
            self.due_at = now + self.pause_s
            self.process = None
        if now < self.due_at:
            return False
        try:
            self.start()
        except OSError as error:  # no memory or no process to be had now
            log.warning("process.start_failed", process=self.name, error=str(error))
            self.due_at = now + RESTART_PAUSE_MAX_S
            return False
        return True

    def _is_done(self) -> bool:
        return self.until_done and self.process is not None and self.process.returncode == 0

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)


@dataclass
class Supervisor:
    """The processes of one machine; `pids_file` lets the next supervisor end what this one could not."""

    pids_file: Path
    children: list[Child] = field(default_factory=list)

    def add(self, child: Child) -> None:
        """Start a process and keep it running from now on."""
        self.children.append(child)
        child.start()
        self._note_pids()

    def tend(self) -> None:
        """Restart what died."""
        started = [child.name for child in self.children if child.tend()]
        if started:
            self._note_pids()

    def kill(self, child: Child, why: str) -> None:
        """Kill a stalled process; `tend` restarts it."""
        log.warning("process.stalled", process=child.name, pid=child.pid, reason=why)
        child.signal(signal.SIGKILL)

    def kill_all(self, name: str, why: str) -> None:
        """Kill the stalled processes of a name; `tend` restarts them."""
        for child in self.children:
            if child.name == name:
                self.kill(child, why)

    def stop(self, timeout_s: float) -> None:
        """End all within `timeout_s`, the last ones last; what does not go is killed."""
        deadline = time.monotonic() + timeout_s
        first = [child for child in self.children if not child.last]
        last = [child for child in self.children if child.last]
        _end(first, deadline - timeout_s * 0.25)
        _end(last, deadline)
        self.pids_file.unlink(missing_ok=True)

    def end_leftovers(self) -> int:
        """Kill what a supervisor that was killed left running; returns how many there were."""
        ended = 0
        for pid, created in _noted(self.pids_file):
            # The time of birth tells our process from another one that got its number.
            with suppress(psutil.Error):
                process = psutil.Process(pid)
                if abs(process.create_time() - created) < 1:
                    process.kill()
                    process.wait(5)
                    ended += 1
        self.pids_file.unlink(missing_ok=True)
        return ended

    def _note_pids(self) -> None:
        noted = []
        for child in self.children:
            with suppress(psutil.Error):
                if child.pid is not None:
                    noted.append([child.pid, psutil.Process(child.pid).create_time()])
        draft = self.pids_file.with_suffix(".new")
        try:
            draft.write_text(json.dumps(noted))
            draft.replace(self.pids_file)
        except OSError as error:  # a full disk is no reason to end what still runs
            log.warning("pid_file.write_failed", error=str(error))


def _end(children: Sequence[Child], deadline: float) -> None:
    for child in children:
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)  # a stopped process cannot hear
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process.killed", process=child.name)
            child.process.kill()
            child.process.wait()


def _noted(file: Path) -> list[tuple[int, float]]:
    try:
        return [(int(pid), float(created)) for pid, created in json.loads(file.read_text())]
    except (OSError, ValueError):
        return []
