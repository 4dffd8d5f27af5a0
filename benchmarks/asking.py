"""The API on a history: a real process, a key for each tenant, and the requests to ask it."""

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
from api_stub.auth.keys import Kind
from benchmarks.history import History
from benchmarks.load import Request
from benchmarks.mixes import TENANTS
from benchmarks.place import Place
from projections.database.engines import writer_engine
from projections.settings import DatabaseSettings
from tests.support.servers import free_port, wait_until

HOURS = 720


@dataclass(frozen=True)
class Api:
    """A running API; `keys_of` holds an API key for each tenant."""

    process: psutil.Process
    port: int
    keys_of: dict[str, str]

    def stats(self, tenant: str, slug: str) -> Request:
        """Return the request for a project's stats."""
        return (f"/v1/config/projects/{slug}/stats", {"Authorization": f"Bearer {self.keys_of[tenant]}"})

    def activity(self, tenant: str, project_id: str) -> Request:
        """Return the request for a project's activity."""
        headers = {"Authorization": f"Bearer {self.keys_of[tenant]}", "X-Project-Id": project_id}
        return (f"/v1/config/monitoring/activity?hours={HOURS}", headers)

    def random_stats(self, history: History, projects: int, count: int) -> list[Request]:
        """Return requests for the stats of random ones among the first projects of a history."""
        return [self.stats(history.tenant(each), f"project-{each}") for each in _chosen(projects, count)]

    def random_activity(self, history: History, projects: int, count: int) -> list[Request]:
        """Return requests for the activity of random ones among the first projects of a history."""
        return [self.activity(history.tenant(each), history.project_id(each)) for each in _chosen(projects, count)]

    def ask(self, request: Request) -> bytes:
        """Return the body of an answer; raises unless it is a 200."""
        path, headers = request
        answer = httpx.get(f"http://127.0.0.1:{self.port}{path}", headers=dict(headers), timeout=20)
        answer.raise_for_status()
        return answer.content


@contextmanager
def api(where: Place, database_url: str) -> Iterator[Api]:
    """Run the API on a database."""
    port = free_port()
    engine = writer_engine(DatabaseSettings.from_environ({"DATABASE_URL": database_url}).database_url)
    made = {}
    with engine.begin() as connection:
        for tenant in (f"ten_{number}" for number in range(TENANTS)):
            allowed = frozenset({"config:read"})
            made[tenant], _ = keys.create(connection, Kind.ORG, tenant, None, allowed, time.time_ns() // 1000)
    engine.dispose()
    with where.command("api", database_url, PORT=str(port)) as started:
        await_port(port, "the API answers")
        yield Api(psutil.Process(started.pid), port, made)


def await_port(port: int, what: str) -> None:
    """Return once somebody listens."""

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    wait_until(listens, what)


def _chosen(projects: int, count: int) -> Sequence[int]:
    chance: Any = random.Random(1)
    return [chance.randrange(projects) for _ in range(count)]
