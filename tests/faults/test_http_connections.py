"""`projector api` as a process: a flood of silent connections, and requests during SIGTERM."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.http_clients import GET, is_listening, response
from tests.support.processes import environ_of
from tests.support.servers import free_port, wait_until

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
FILES = 1024
SILENT = 1100
READY = b"GET /readyz HTTP/1.1\r\nHost: here\r\n\r\n"


@dataclass(frozen=True)
class ApiProcess:
    """A running `projector api`."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@contextmanager
def api_process(environ: dict[str, str], log: Path, files: int | None = None) -> Iterator[ApiProcess]:
    """Run `projector api`, which may open that many files."""
    port = free_port()
    limit = f"ulimit -n {files}; " if files else ""
    command = f"{limit}exec {sys.executable} -m cli api"
    with log.open("wb") as stderr:
        process = subprocess.Popen(["sh", "-c", command], env=environ | {"PORT": str(port)}, stderr=stderr)
    try:
        wait_until(lambda: is_listening(port), "the API listens")
        yield ApiProcess(process, port, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def environ(database_url: str, redis_url: str) -> dict[str, str]:
    return environ_of(database_url, redis_url)


def test_silent_connections_beyond_the_limit_on_open_files_delay_no_reader(
    environ: dict[str, str], tmp_path: Path
) -> None:
    needed = SILENT + 200
    if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    with api_process(environ, tmp_path / "log", FILES) as api, ExitStack() as stack:
        took_s = []
        for number in range(SILENT):
            stack.enter_context(api.connect())
            if number % 50 == 0:
                began = time.monotonic()
                for request in (GET, READY):
                    with api.connect() as reader:
                        reader.sendall(request)
                        assert response(reader)[0] == 200
                took_s.append(time.monotonic() - began)
        assert sorted(took_s)[len(took_s) // 2] < 1
        wait_until(lambda: closed_at_the_limit(api) > SILENT - FILES, "the closed connections are logged")
        assert len(api.log.read_text().splitlines()) <= 3


def closed_at_the_limit(api: ApiProcess) -> int:
    """Return how many connections the log says were closed because there were too many."""
    lines = [json.loads(line) for line in api.log.read_text().splitlines()]
    return sum(line["reasons"]["limit_of_connections"] for line in lines if line["event"] == "api.connections_closed")


@dataclass
class Readers:
    """Clients that send requests over persistent connections, and reconnect while the API is ready."""

    port: int
    problems: list[str] = field(default_factory=list)
    answered: int = 0
    closes: int = 0
    is_ready: bool = True

    def read(self) -> None:
        while self.is_ready:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                while self._read_once(connection):
                    pass

    def watch_readiness(self) -> None:
        """Look at readiness as a load balancer does, over connections of its own."""
        while self.is_ready:
            with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
                connection.sendall(READY)
                self.is_ready = response(connection)[0] == 200
            time.sleep(0.02)

    def _read_once(self, connection: socket.socket) -> bool:
        """Send one request. Returns whether the connection may be used again."""
        try:
            connection.sendall(GET)
            status, head, _ = response(connection)
        except OSError as error:
            self.problems.append(repr(error))
            return False
        if status != 200:
            self.problems.append(f"status {status}")
        self.answered += 1
        is_last = b"connection: close" in head
        self.closes += is_last
        return not is_last


def test_readiness_fails_first_at_shutdown_and_no_request_is_cut(environ: dict[str, str], tmp_path: Path) -> None:
    with api_process(environ | {"PROJECTOR_SHUTDOWN_GRACE_S": "2"}, tmp_path / "log") as api:
        readers = Readers(api.port)
        threads = [threading.Thread(target=readers.read) for _ in range(8)]
        threads.append(threading.Thread(target=readers.watch_readiness))
        for thread in threads:
            thread.start()
        wait_until(lambda: readers.answered > 200, "the readers read")
        with api.connect() as idle:
            idle.sendall(GET)
            assert response(idle)[0] == 200
            api.process.send_signal(signal.SIGTERM)
            for thread in threads:
                thread.join(60)
            assert api.process.poll() is None  # it still answers the connections that it has
            idle.sendall(GET)
            status, head, _ = response(idle)
            assert (status, b"connection: close" in head) == (200, True)
        assert api.process.wait(30) == 0
        assert (readers.problems, readers.closes >= 8) == ([], True)


def test_a_request_that_arrives_while_the_listener_ends_is_answered(environ: dict[str, str], tmp_path: Path) -> None:
    with api_process(environ | {"PROJECTOR_SHUTDOWN_GRACE_S": "0"}, tmp_path / "log") as api, api.connect() as late:
        late.sendall(GET[:10])
        with api.connect() as other:  # its response shows that the first bytes were read
            other.sendall(GET)
            response(other)
        os.kill(api.process.pid, signal.SIGTERM)
        wait_until(lambda: not is_listening(api.port), "it has stopped listening")
        late.sendall(GET[10:])
        status, head, _ = response(late)
        assert (status, b"connection: close" in head) == (200, True)
        assert api.process.wait(30) == 0


def test_a_second_signal_ends_the_grace_period(environ: dict[str, str], tmp_path: Path) -> None:
    with (
        api_process(environ | {"PROJECTOR_SHUTDOWN_GRACE_S": "3600"}, tmp_path / "log") as api,
        api.connect() as client,
    ):
        client.sendall(READY)
        assert response(client)[0] == 200
        api.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(api) == 503, "readiness fails")
        api.process.send_signal(signal.SIGTERM)
        assert api.process.wait(30) == 0


def readiness(api: ApiProcess) -> int:
    with api.connect() as client:
        client.sendall(READY)
        return response(client)[0]
