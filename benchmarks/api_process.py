"""A real API process for a benchmark, with an API key for each tenant and the requests to send."""

import random
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import psutil

from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from benchmarks.load_generator import LoadRequest
from benchmarks.sandbox import Sandbox
from benchmarks.synthetic_log import SyntheticLog
from benchmarks.workloads import TENANTS
from projections.database.engines import writer_engine
from projections.settings import DatabaseSettings
from tests.support.servers import free_port, wait_until

HOURS = 720


@dataclass(frozen=True)
class RunningApi:
    """A running API process, and an API key for each tenant."""

    process: psutil.Process
    port: int
    key_by_tenant: dict[str, str]

    def stats(self, tenant: str, slug: str) -> LoadRequest:
        """Return the request for a project's stats."""
        return (f"/v1/config/projects/{slug}/stats", {"Authorization": f"Bearer {self.key_by_tenant[tenant]}"})

    def activity(self, tenant: str, project_id: str) -> LoadRequest:
        """Return the request for a project's activity."""
        headers = {"Authorization": f"Bearer {self.key_by_tenant[tenant]}", "X-Project-Id": project_id}
        return (f"/v1/config/monitoring/activity?hours={HOURS}", headers)

    def random_stats(self, log: SyntheticLog, projects: int, count: int) -> list[LoadRequest]:
        """Return requests for the stats of random projects among the first ones of a log."""
        return [self.stats(log.tenant(project), f"project-{project}") for project in _random_projects(projects, count)]

    def random_activity(self, log: SyntheticLog, projects: int, count: int) -> list[LoadRequest]:
        """Return requests for the activity of random projects among the first ones of a log."""
        return [
            self.activity(log.tenant(project), log.project_id(project)) for project in _random_projects(projects, count)
        ]

    def get(self, request: LoadRequest) -> bytes:
        """Return the body of a response. Raises an error unless its status is 200."""
        path, headers = request
        response = httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=dict(headers), timeout=20)
        response.raise_for_status()
        return response.content


@contextmanager
def run_api(sandbox: Sandbox, database_url: str) -> Iterator[RunningApi]:
    """Run the API on a database until the end of the block."""
    port = free_port()
    engine = writer_engine(DatabaseSettings.from_environ({"DATABASE_URL": database_url}).database_url)
    key_texts = {}
    with engine.begin() as connection:
        for tenant in (f"ten_{number}" for number in range(TENANTS)):
            permissions = frozenset({"config:read"})
            key_texts[tenant], _ = keys.create(
                connection, KeyKind.ORG, tenant, None, permissions, time.time_ns() // 1000
            )
    engine.dispose()
    with sandbox.command("api", database_url, PORT=str(port)) as process:
        wait_for_port(port, "the API answers")
        yield RunningApi(psutil.Process(process.pid), port, key_texts)


def wait_for_port(port: int, description: str) -> None:
    """Wait until a process listens at a port of this machine."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, description)


def _random_projects(projects: int, count: int) -> Sequence[int]:
    generator: Any = random.Random(1)
    return [generator.randrange(projects) for _ in range(count)]
