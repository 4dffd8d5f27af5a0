"""A server that accepts connections and never answers: every report names it within seconds, and the other one answers."""

import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import psutil
import pytest

from api_stub.operations import Health
from migrations import migrate_database
from monitoring.health import projector_health
from tests.conftest import PARTITIONS, sqlalchemy_url
from tests.support.commands import run_command
from tests.support.harness import closing_runtime
from tests.support.metrics_scrape import scrape
from tests.support.processes import environ_of
from tests.support.servers import PostgresServer, RedisServer, wait_until
from workers.doctor.context import Context
from workers.doctor.runner import run_checks
from workers.runtime import Runtime

# The limits are 1.5 s and 2 s; a busy machine may take longer. Without limits it were 20 s and more.
BOUND_S = 10.0


class Servers:
    """A Redis and a PostgreSQL that can be paused; `pause` names them."""

    def __init__(self) -> None:
        self.redis, self.database = RedisServer(), PostgresServer()
        self.redis.start()
        self.database.start()
        self.database.execute("CREATE DATABASE silent")
        url = sqlalchemy_url(self.database.url("silent"))
        migrate_database(url, PARTITIONS)
        self.environ = environ_of(url, self.redis.url)

    @contextmanager
    def paused(self, names: tuple[str, ...]) -> Iterator[None]:
        """Pause servers, with all their processes, in this block."""
        stopped: list[psutil.Process] = []
        try:
            for name in names:
                stopped.append(self._process(name))
                _stop(stopped[-1])  # first, so that it starts no other process
                for child in stopped[-1].children(recursive=True):
                    with suppress(psutil.NoSuchProcess):  # it has just ended
                        _stop(child)
                        stopped.append(child)
            yield
        finally:
            for process in stopped:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    def _process(self, name: str) -> psutil.Process:
        process = self.redis.process if name == "redis" else self.database.process
        assert process is not None
        return psutil.Process(process.pid)

    def remove(self) -> None:
        self.redis.remove()
        self.database.remove()


def _stop(process: psutil.Process) -> None:
    process.send_signal(signal.SIGSTOP)
    paused = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE)  # a child that has ended, whose parent is paused
    wait_until(lambda: process.status() in paused, "the process is paused")


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    made = Servers()
    with closing_runtime(Runtime.for_writing(made.environ)) as runtime:
        runtime.check()
    assert run_command(made.environ, "status").returncode == 0  # also imports all commands, once
    yield made
    made.remove()


@pytest.mark.first
def test_a_silent_redis_is_named_within_seconds(sqlite_url: str) -> None:
    server = RedisServer()
    server.start()
    with closing_runtime(Runtime.for_reports(environ_of(sqlite_url, server.url))) as runtime:
        runtime.check()
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)
        began_s = time.monotonic()
        assert projector_health(runtime) == Health(["Redis cannot be reached"])
        assert time.monotonic() - began_s < BOUND_S
    server.remove()


@pytest.mark.parametrize(
    ("silent", "said", "health"),
    [
        (("redis",), "Redis cannot be read (TimeoutError: ", ["Redis cannot be reached"]),
        (("database",), "the database cannot be read (", ["the database cannot be reached"]),
        (
            ("redis", "database"),
            "neither Redis (TimeoutError: ",
            ["Redis cannot be reached", "the database cannot be reached"],
        ),
    ],
    ids=["redis", "database", "both"],
)
@pytest.mark.parametrize("connected", [False, True], ids=["new", "connected"])
def test_reports_name_the_silent_server_within_seconds(
    servers: Servers, silent: tuple[str, ...], said: str, health: list[str], *, connected: bool
) -> None:
    with closing_runtime(Runtime.for_reports(servers.environ)) as runtime:
        if connected:
            assert projector_health(runtime).errors != health
        with servers.paused(silent):
            began_s = time.monotonic()
            assert projector_health(runtime) == Health(health)
            assert time.monotonic() - began_s < BOUND_S
            if connected:
                return
            for command in (("status",), ("status", "--json"), ("deployment", "show")):
                began_s = time.monotonic()
                result = run_command(servers.environ, *command)
                assert time.monotonic() - began_s < BOUND_S
                assert result.returncode == 1
                assert result.stderr.startswith(f"projector: {said}"), result.stderr
            if "database" in silent:
                began_s = time.monotonic()
                result = run_command(servers.environ, "lost", "list")
                assert time.monotonic() - began_s < BOUND_S
                assert result.stderr.startswith("projector: the database: "), result.stderr
            with closing(Context.from_environ(servers.environ)) as context:
                began_s = time.monotonic()
                found = {each.code for each in run_checks(context).findings}
                assert time.monotonic() - began_s < BOUND_S
            assert {f"{name}-unreachable" for name in silent} <= found
            began_s = time.monotonic()
            scraped = scrape(runtime)
            assert time.monotonic() - began_s < BOUND_S
            up = {name: scraped("projector_up", server=name) for name in ("redis", "database")}
            assert up == {name: float(name not in silent) for name in up}
