"""The HTTP API in this process, and the comparison of its answers with the oracle."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import httpx
from sqlalchemy import Engine

from api_stub.app import application, operations_routes, read_routes
from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from api_stub.handlers import ReadHandlers
from api_stub.lookups.databases import open_database
from api_stub.operations import Health, Operations
from api_stub.serving.shutdown import Shutdown
from tests.support.events import NOW_US
from tests.support.oracle import Oracle
from workers.runtime import Runtime


class Api:
    """The API in this process, reached over HTTP without a network; the test sets its clock."""

    def __init__(self, writer: Engine, reader: Engine, key_cache_s: float = 0.0) -> None:
        self.now_us = NOW_US
        self.writer = writer
        self.executor = ThreadPoolExecutor(2)
        self.database = open_database(reader, self.executor)
        reads = ReadHandlers(self.database, key_cache_s, clock=lambda: self.now_us)
        self.health = Health()
        operations = Operations.create(reader, self.executor, lambda: self.health, self._scrape, Shutdown())
        self.routes = read_routes(reads) + operations_routes(operations)
        self.app = application(self.routes)

    def key(
        self,
        tenant: str,
        project: str | None = None,
        *,
        kind: KeyKind | None = None,
        permissions: Sequence[str] = ("config:read",),
        expires_us: int | None = None,
    ) -> str:
        kind = kind or (KeyKind.SECRET if project else KeyKind.ORG)
        with self.writer.begin() as connection:
            allowed = frozenset(permissions)
            return keys.create(connection, kind, tenant, project, allowed, self.now_us, expires_us)[0]

    async def _scrape(self) -> bytes:
        return b"projector_up 1\n"

    async def ask(self, path: str, key: str | None = None, method: str = "GET", **headers: str) -> httpx.Response:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, headers=sent)

    async def data(self, path: str, key: str, **headers: str) -> Any:
        response = await self.ask(path, key, **headers)
        assert response.status_code == 200, response.text
        assert response.json()["success"] is True
        return response.json()["data"]

    def close(self) -> None:
        self.database.close()
        self.executor.shutdown()


async def assert_answers_equal(
    oracle: Oracle, ask: Callable[[str, str, dict[str, str]], Any], clock: Callable[[], int], hours: int = 720
) -> int:
    """Compare all reads of every project and tenant with the oracle; returns the number of comparisons.

    A response belongs to some moment during its request, so it may equal the oracle's answer before or after.
    """

    async def compare(tenant: str, path: str, headers: dict[str, str], expected: Callable[[datetime], Any]) -> None:
        before = expected(_moment(clock()))
        answer = await ask(tenant, path, headers)
        if answer != before:
            assert answer == expected(_moment(clock()))

    compared = 0
    slugs = {tenant: oracle.slugs(tenant) for tenant, _ in oracle.projects()}
    for tenant, holders in slugs.items():
        for slug, project in holders.items():
            await compare(tenant, f"/v1/config/projects/{slug}/stats", {}, partial(oracle.stats, tenant, project))
            compared += 1
    for tenant in slugs:
        await compare(tenant, "/v1/config/projects", {}, partial(oracle.list_projects, tenant))
        await compare(tenant, "/v1/config/usage", {}, partial(oracle.usage, tenant))
        compared += 2
    for tenant, project in oracle.projects():
        path, header = f"/v1/config/monitoring/activity?hours={hours}", {"X-Project-Id": project}
        if oracle.exists(tenant, project):
            await compare(tenant, path, header, partial(oracle.activity, tenant, project, hours=hours))
        else:
            assert await ask(tenant, path, header) is None
        compared += 1
    return compared


def count_equal_answers(runtime: Runtime, oracle: Oracle, now_us: int = NOW_US, hours: int = 720) -> int:
    """Check all answers of an API in this process against the oracle; returns how many were compared."""
    api = Api(runtime.writer, runtime.reader)
    api.now_us = now_us
    keys = {tenant: api.key(tenant) for tenant, _ in oracle.projects()}

    async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
        response = await api.ask(path, keys[tenant], **headers)
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        return response.json()["data"]

    try:
        return anyio.run(partial(assert_answers_equal, oracle, ask, lambda: now_us, hours))
    finally:
        api.close()


def _moment(time_us: int) -> datetime:
    return datetime.fromtimestamp(time_us / 1e6, UTC)
