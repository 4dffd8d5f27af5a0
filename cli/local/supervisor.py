"""Supervises child processes: starts them, restarts those that exit or stall, and stops them in order."""

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from cli.local import pid_file

RESTART_PAUSE_FIRST_S = 0.2
RESTART_PAUSE_MAX_S = 5.0
STEADY_AFTER_S = 10.0  # the restart pause starts over for a process that ran for longer
POLL_S = 0.1

log = structlog.get_logger()


@dataclass
class Child:
    """A process that is restarted whenever it exits; with `until_done`, only while its exit code is not 0.

    Children with `stop_last` are stopped after all others.
    """

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    stop_last: bool = False
    until_done: bool = False
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float = 0.0
    restart_pause_s: float = RESTART_PAUSE_FIRST_S

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self.process.pid if self.process and self.process.poll() is None else None

    @property
    def age_s(self) -> float:
        """Seconds since it was last started."""
        return time.monotonic() - self.started_at

    def start(self) -> None:
        """Start it in its own session, so that Ctrl-C in the terminal reaches only the supervisor, which stops it."""
        self.process = subprocess.Popen(
            list(self.command),
            env=dict(self.environ),
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
        )
        self.started_at = time.monotonic()

    def restart_if_exited(self) -> bool:
        """Start it again if it has exited and its restart pause is over. Returns whether it was started."""
        now = time.monotonic()
        if self.pid is not None or self._is_done():
            return False
        if self.process is not None:
            log.warning("process.exited", process=self.name, exit_code=self.process.returncode)
            is_steady = self.age_s > STEADY_AFTER_S
            longer_s = min(self.restart_pause_s * 2, RESTART_PAUSE_MAX_S)
            self.restart_pause_s = RESTART_PAUSE_FIRST_S if is_steady else longer_s
            self.restart_at = now + self.restart_pause_s
            self.process = None
        if now < self.restart_at:
            return False
        try:
            self.start()
        except OSError as error:  # the machine is out of memory or processes
            log.warning("process.start_failed", process=self.name, error=str(error))
            self.restart_at = now + RESTART_PAUSE_MAX_S
            return False
        return True

    def signal(self, number: int) -> None:
        """Send a signal if it runs."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(number)

    def _is_done(self) -> bool:
        return self.until_done and self.process is not None and self.process.returncode == 0


@dataclass
class Supervisor:
    """The child processes on one machine. `pids_file` lists them for the next supervisor."""

    pids_file: Path
    children: list[Child] = field(default_factory=list)

    def add(self, child: Child) -> None:
        """Start a process and supervise it from now on."""
        self.children.append(child)
        child.start()
        self._write_pids()

    def restart_exited(self) -> None:
        """Restart the processes that have exited."""
        started = [child.name for child in self.children if child.restart_if_exited()]
        if started:
            self._write_pids()

    def kill(self, child: Child, reason: str) -> None:
        """Kill a stalled process; `restart_exited` starts it again."""
        log.warning("process.stalled", process=child.name, pid=child.pid, reason=reason)
        child.signal(signal.SIGKILL)

    def kill_all(self, name: str, reason: str) -> None:
        """Kill all processes of one name because they are stalled."""
        for child in self.children:
            if child.name == name:
                self.kill(child, reason)

    def stop(self, timeout_s: float) -> None:
        """Stop all processes within `timeout_s`. Those that do not exit in time are killed."""
        deadline = time.monotonic() + timeout_s
        _stop([child for child in self.children if not child.stop_last], deadline - timeout_s * 0.25)
        _stop([child for child in self.children if child.stop_last], deadline)
        self.pids_file.unlink(missing_ok=True)

    def _write_pids(self) -> None:
        pid_file.write(self.pids_file, [child.pid for child in self.children if child.pid is not None])


def _stop(children: Sequence[Child], deadline: float) -> None:
    for child in children:
        child.signal(signal.SIGTERM)
        child.signal(signal.SIGCONT)  # a suspended process does not receive SIGTERM
    for child in children:
        if child.process is None:
            continue
        try:
            child.process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.warning("process.killed", process=child.name)
            child.process.kill()
            child.process.wait()
