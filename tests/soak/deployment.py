"""The deployment of a soak: servers with durable defaults, and the Procfile's processes."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from redis import Redis
from sqlalchemy import Engine

from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from migrations import migrate_database
from projections.settings import DatabaseSettings
from tests.soak.plan import PARTITIONS, WORKERS, Plan
from tests.support.harness import closing_runtime
from tests.support.processes import PATIENT_API
from tests.support.servers import PostgresServer, RedisServer, free_port, wait_until
from workers.runtime import Runtime

OWN_NAME = "soak"  # marks the connections of the soak itself, which are not counted
DATABASE = "soak"


@dataclass
class SoakDeployment:
    """A running deployment: `processes` by role, and a `runtime` of the soak itself."""

    redis: RedisServer
    postgres: PostgresServer
    runtime: Runtime
    processes: dict[str, "subprocess.Popen[bytes]"]
    api_url: str
    api_keys: dict[str, str]
    log: Path

    def client(self) -> Redis:
        """Return a Redis client that is not counted."""
        return Redis.from_url(self.redis.url, client_name=OWN_NAME)

    def assert_alive(self) -> None:
        """Fail if one of the processes has ended."""
        ended = {role: each.returncode for role, each in self.processes.items() if each.poll() is not None}
        assert not ended, f"{ended} ended: {self.log.read_text()[-3000:]}"

    def end(self) -> None:
        """Send SIGTERM to all processes; fails if one ends with an error."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        codes = {role: process.wait(60) for role, process in self.processes.items()}
        assert not any(codes.values()), f"exit codes {codes}: {self.log.read_text()[-3000:]}"


@contextmanager
def deploy(plan: Plan) -> Iterator[SoakDeployment]:
    """Start everything; at the end kill what still runs and remove its data."""
    with ExitStack() as stack:
        redis, postgres = RedisServer(), PostgresServer(durable=True)
        for server in (redis, postgres):
            stack.callback(server.remove)
            server.start()
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="projector-soak-")))
        postgres.execute(f"CREATE DATABASE {DATABASE}")
        url = postgres.url(DATABASE)
        migrate_database(DatabaseSettings.from_environ({"DATABASE_URL": url}).database_url, PARTITIONS)
        environ = {"REDIS_URL": redis.url, "DATABASE_URL": url, "PROJECTOR_PARTITIONS": str(PARTITIONS)}
        port, log = free_port(), directory / "processes.log"
        own = {
            "REDIS_URL": f"{redis.url}?client_name={OWN_NAME}",
            "DATABASE_URL": f"{url}?application_name={OWN_NAME}",
        }
        runtime = stack.enter_context(closing_runtime(Runtime.from_environ(environ | own)))
        runtime.check()
        processes: dict[str, subprocess.Popen[bytes]] = {}
        stack.callback(_kill, processes)
        for role in [*(f"worker {number + 1}" for number in range(WORKERS)), "dispatcher", "API"]:
            processes[role] = _start(role, plan, environ | {"PORT": str(port)}, log)
        made = SoakDeployment(
            redis, postgres, runtime, processes, f"http://127.0.0.1:{port}", _keys(runtime.writer, plan), log
        )
        wait_until(lambda: _is_ready(made), "the API answers", 90)
        yield made


def _start(role: str, plan: Plan, environ: dict[str, str], log: Path) -> "subprocess.Popen[bytes]":
    command = role.split(maxsplit=1)[0].lower()
    # A machine that stalls delays the API. That is no growth, so its timeouts are long.
    constants = plan.constants | (PATIENT_API if command == "api" else {})
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.support.override_constants", command, json.dumps(constants)],
            # PostgreSQL shows this name for each connection.
            env=os.environ | environ | {"PGAPPNAME": command},
            stdout=file,
            stderr=file,
        )


def _kill(processes: dict[str, "subprocess.Popen[bytes]"]) -> None:
    for process in processes.values():
        process.kill()
        process.wait()


def _keys(writer: Engine, plan: Plan) -> dict[str, str]:
    """Return a key for each tenant."""
    now_us = time.time_ns() // 1000
    with writer.begin() as connection:
        return {
            tenant: keys.create(connection, KeyKind.ORG, tenant, None, frozenset({"config:read"}), now_us, None)[0]
            for tenant in (f"ten_{number}" for number in range(plan.tenants))
        }


def _is_ready(made: SoakDeployment) -> bool:
    made.assert_alive()
    try:
        return httpx.get(f"{made.api_url}/readyz").status_code == 200
    except httpx.TransportError:
        return False
