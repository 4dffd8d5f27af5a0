"""How tests move events: append raw, drain in process, dump tables, ask the API."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import anyio
import httpx
from sqlalchemy import Connection, Engine, Table, select

from api_stub.app import application, operations_routes, read_routes
from api_stub.auth import keys
from api_stub.auth.keys import Kind
from api_stub.lookups.lookup import database
from api_stub.operations import Health, Operations
from api_stub.reads import Reads
from event_stream.event_types import partition_of
from event_stream.stream import Appended
from projections.folding.projection import Projection
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Selection, StoredDeadLetter
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint, event_log
from projections.transaction.checkpoint import Checkpoint
from tests.support.events import NOW_US, body
from tests.support.oracle import Oracle
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime

READ_MODELS = tuple(projection.table for projection in PROJECTIONS)


@contextmanager
def held_open(runtime: Runtime) -> Iterator[Runtime]:
    """Let a test use a runtime of its own within this block, and close all that it holds open."""
    try:
        yield runtime
    finally:
        runtime.stream.redis.close()
        runtime.queue.connection.close()
        runtime.writer.dispose()
        runtime.reader.dispose()


def append(runtime: Runtime, *events: dict[str, Any]) -> list[Appended]:
    """Append events as a foreign producer does: XADD to the tenant's partition, nothing checked."""
    partitions = runtime.stream.partitions
    return runtime.stream.append([(partition_of(str(e["tenantid"]), partitions), body(e)) for e in events])


def append_raw(runtime: Runtime, partition: int, *bodies: bytes) -> None:
    """Append bytes to a partition, whatever they are."""
    runtime.stream.append([(partition, raw) for raw in bodies])


def drain_all(runtime: Runtime, budget_s: float = 15) -> None:
    """Drain every partition until nothing is left, or the time is up for it."""
    for partition in range(runtime.stream.partitions):
        run(Drainer(runtime, partition), Lease(runtime.queue.connection, partition), budget_s)


def checkpoints(runtime: Runtime) -> list[Checkpoint]:
    with runtime.reader.connect() as connection:
        return checkpoint.read_all(connection, runtime.stream.partitions)


def totals(runtime: Runtime) -> dict[str, int]:
    """Return the counters of all partitions together."""
    names = ("read", "applied", "duplicates", "dead_lettered", "lost")
    return {name: sum(getattr(at, name) for at in checkpoints(runtime)) for name in names}


def letters(runtime: Runtime) -> list[StoredDeadLetter]:
    """Return all letters, oldest position first."""
    with runtime.reader.connect() as connection:
        found = dead_letter_admin.latest(connection, Selection(closed_too=True), limit=100_000)
    return sorted(found, key=lambda letter: (letter.partition, letter.position))


def dump(engine: Engine, tables: Iterable[Table] = READ_MODELS) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of tables, in the order of their keys."""
    with engine.connect() as connection:
        return {table.name: _rows(connection, table) for table in tables}


def _rows(connection: Connection, table: Table) -> list[tuple[Any, ...]]:
    return sorted(tuple(row) for row in connection.execute(select(table)))


def log_size(engine: Engine) -> int:
    return len(dump(engine, [event_log.table])["event_log"])


def in_place(changed: Projection) -> tuple[Projection, ...]:
    """Return the projections, with this one in the place of the one of its name."""
    assert changed.name in {each.name for each in PROJECTIONS}
    return tuple(changed if each.name == changed.name else each for each in PROJECTIONS)


def with_projections(runtime: Runtime, *projections: Any) -> Runtime:
    return replace(runtime, projections=projections)


class Api:
    """The API in this process, asked over HTTP without a network, at a time the test chooses."""

    def __init__(self, writer: Engine, reader: Engine, key_cache_s: float = 0.0) -> None:
        self.now_us = NOW_US
        self.writer = writer
        self.executor = ThreadPoolExecutor(2)
        self.database = database(reader, self.executor)
        reads = Reads(self.database, key_cache_s, clock=lambda: self.now_us)
        self.health = Health()
        operations = Operations.on(reader, self.executor, lambda: self.health, self._scrape)
        self.routes = read_routes(reads) + operations_routes(operations)
        self.app = application(self.routes)

    def key(
        self,
        tenant: str,
        project: str | None = None,
        *,
        kind: Kind | None = None,
        permissions: Sequence[str] = ("config:read",),
        expires_us: int | None = None,
    ) -> str:
        kind = kind or (Kind.SECRET if project else Kind.ORG)
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
    """Compare both reads of every project that any event names with the oracle; returns how many answers were.

    An answer belongs to some moment while it was asked for; so it may equal the oracle's before or after.
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
    for tenant, project in oracle.projects():
        path, header = f"/v1/config/monitoring/activity?hours={hours}", {"X-Project-Id": project}
        if oracle.exists(tenant, project):
            await compare(tenant, path, header, partial(oracle.activity, tenant, project, hours=hours))
        else:
            assert await ask(tenant, path, header) is None
        compared += 1
    return compared


def count_equal_answers(runtime: Runtime, oracle: Oracle, now_us: int = NOW_US, hours: int = 720) -> int:
    """Return how many answers of this process's API, at a moment, equal the oracle's; fails if one does not."""
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
