"""The startup of `projector up`: its environment, its processes in order, and the wait until reads answer."""

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from api_stub.settings import ApiSettings
from cli import environment
from cli.connections import refuse_other_database
from cli.local.embedded import EmbeddedValkey
from cli.local.ports import free_port, http_url
from cli.local.supervisor import POLL_S, Child, Supervisor
from cli.local.watchdog import START_TIMEOUT_S, fail_fast_redis, is_ok
from cli.output import CliError
from event_stream.settings import StreamSettings
from migrations import migrate_database
from projections.database.engines import writer_engine
from projections.read_models.registry import PROJECTIONS
from projections.settings import DatabaseSettings
from projections.transaction import projection_version
from workers.settings import RedisSettings


def prepare_environ(directory: Path) -> tuple[dict[str, str], EmbeddedValkey | None]:
    """Return the environment for all processes, and the embedded server if REDIS_URL is not set.

    Raises SettingsError if a setting is wrong.
    """
    environ = dict(os.environ) | {"PROJECTOR_SHUTDOWN_GRACE_S": "0"}  # no load balancer looks at readiness
    for port, host in (("PORT", "HOST"), ("OPS_PORT", "OPS_HOST")):
        if environ.get(port) == "0":
            address = environ.get(host) or environ.get("HOST") or "127.0.0.1"
            environ[port] = str(free_port(address, _api_ports(environ)))
    valkey = None
    if not environ.get("REDIS_URL"):
        valkey = EmbeddedValkey.in_directory(directory / "valkey", exclude_ports=_api_ports(environ))
        environ["REDIS_URL"] = valkey.url
    StreamSettings.from_environ(environ)
    RedisSettings.from_environ(environ)
    environ["DATABASE_URL"] = DatabaseSettings.from_environ(environ).database_url
    return environ, valkey


def operations_url(api: ApiSettings) -> str:
    """Return the URL of the API's operations endpoints."""
    return http_url(api.addresses[-1])


def command_of(name: str) -> list[str]:
    """Return the command line of `projector NAME`."""
    return [sys.executable, "-m", "cli", name]


@dataclass(frozen=True)
class Startup:
    """Starts processes under a supervisor, all with one environment, until `stopping` is set.

    `redis_remedy` says what to do if Redis does not answer.
    """

    supervisor: Supervisor
    environ: Mapping[str, str]
    stopping: threading.Event
    redis_remedy: str

    def start(self, directory: Path, workers: int) -> bool:
        """Migrate the database, start the processes and wait for reads. Returns False if stopped before that."""
        client = fail_fast_redis(self.environ["REDIS_URL"])
        self.wait_until(lambda: _pings(client), f"Redis did not answer; {self.redis_remedy}")
        if self.stopping.is_set():
            return False
        refuse_other_database(self.environ)
        migrate_database(self.environ["DATABASE_URL"], StreamSettings.from_environ(self.environ).partitions)
        environment.write({name: self.environ[name] for name in ("REDIS_URL", "DATABASE_URL")}, directory)
        for name in ["api", "dispatcher", *["worker"] * workers]:
            self.add(name)
        if _needs_rebuild(self.environ["DATABASE_URL"]):
            rebuild = [*command_of("migrate"), "--rebuild"]
            self.supervisor.add(Child("rebuild", rebuild, self.environ, until_done=True))
        url = operations_url(ApiSettings.from_environ(self.environ))
        self.wait_until(lambda: is_ok(f"{url}/readyz"), "the API did not become ready; see the log lines above")
        return not self.stopping.is_set()

    def add(self, name: str) -> None:
        """Start `projector NAME` and keep it running."""
        self.supervisor.add(Child(name, command_of(name), self.environ))

    def wait_until(self, condition: Callable[[], bool], problem: str) -> None:
        """Wait for a condition or for `stopping`, while processes that exit are restarted.

        Raises CliError with `problem` after START_TIMEOUT_S.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self.stopping.is_set() and not condition():
            if time.monotonic() > deadline:
                raise CliError(f"{problem} (waited {START_TIMEOUT_S:.0f} s)")
            self.supervisor.restart_exited()
            self.stopping.wait(POLL_S)


def _api_ports(environ: Mapping[str, str]) -> set[int]:
    """Return the ports that the API will listen on."""
    return {port for _, port in ApiSettings.from_environ(environ).addresses}


def _pings(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def _needs_rebuild(database_url: str) -> bool:
    """Return whether some rows were made by an older release, or lack events."""
    engine = writer_engine(database_url)
    try:
        with engine.connect() as connection:
            counts = projection_version.count_tenants(connection, PROJECTIONS)
        return any(each.pending for each in counts.values())
    finally:
        engine.dispose()
