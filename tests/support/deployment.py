"""A running `projector up` in its own folder, seen from outside: a process, a port, lines of output."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.servers import cleanup, free_port, wait_until

PROJECTOR = str(Path(sys.executable).parent / "projector")


class Deployment:
    """`projector up` on an embedded Redis and, unless a URL is given, SQLite; `constants` overrides constants of the product."""

    def __init__(
        self,
        directory: Path,
        *options: str,
        database_url: str | None = None,
        constants: Mapping[str, float] | None = None,
        **environ: str,
    ) -> None:
        self.directory = directory
        self.command = [PROJECTOR, "up", *options]
        if constants is not None:
            self.command = [
                sys.executable,
                "-m",
                "tests.support.override_constants",
                "up",
                json.dumps(constants),
                *options,
            ]
        self.port = free_port()
        clean = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
        self.environ = clean | {"PROJECTOR_DATA_DIR": str(directory), "PORT": str(self.port)} | environ
        if database_url is not None:
            self.environ["DATABASE_URL"] = database_url.replace("+psycopg", "")
        self.lines: list[str] = []
        self.log = directory.with_suffix(".log")
        self.process: subprocess.Popen[str] | None = None
        cleanup.callback(self.remove)

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        threading.Thread(target=self._read, args=(self.process,), daemon=True).start()

    def _read(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self.lines.append(line.rstrip("\n"))

    def await_ready(self) -> None:
        wait_until(lambda: "ready" in self.lines or self.ended(), "`projector up` prints ready", 300)
        assert not self.ended(), self.log.read_text()[-3000:]

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(30)

    def remove(self) -> None:
        if not self.ended():
            self.stop()

    def run(self, *arguments: str, stdin: str | None = None, expect: int = 0) -> str:
        """Run another command in this folder and return what it prints."""
        done = subprocess.run(
            [PROJECTOR, *arguments],
            check=False,
            env=self._command_environ(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == expect, done.stdout + done.stderr
        return done.stdout if expect == 0 or done.stdout else done.stderr

    def _command_environ(self) -> dict[str, str]:
        """Return the environment of another command: `up.env` is not used where one of its variables is set."""
        given = {"REDIS_URL", "DATABASE_URL"} & self.environ.keys()
        return self.environ | (self.variables() if given and (self.directory / "up.env").exists() else {})

    def variables(self) -> dict[str, str]:
        text = (self.directory / "up.env").read_text()
        return dict(part.split("=", 1) for part in shlex.split(text, comments=True))

    def pids(self, pattern: str) -> list[int]:
        """Return the processes of this deployment whose command line matches."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if re.search(pattern, " ".join(_command(child)))]

    def kill(self, pattern: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to the processes that match; returns how many there were."""
        found = self.pids(pattern)
        for pid in found:
            os.kill(pid, number)
        return len(found)

    def get(self, path: str, key: str | None = None, **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=sent, timeout=20)

    def data(self, path: str, key: str, **headers: str) -> Any:
        response = self.get(path, key, **headers)
        assert response.status_code == 200, response.text
        return response.json()["data"]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
