"""`python -m benchmarks [EVENTS]`: events per second from a backlog and requests per second, on both databases.

PostgreSQL runs with its durable defaults. Everything shares this machine's cores: the servers, the worker, the API and
the load generator. So compare rows of one run, not numbers of two machines.
"""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import uvloop
from rich.console import Console
from rich.table import Table

from api_stub import keys
from api_stub.keys import Kind
from benchmarks.load import fetch_all
from cli.embedded import free_port
from cli.processes import migrate_database
from event_stream.settings import StreamSettings
from event_stream.stream import Stream
from event_stream.types import partition_of
from projections.settings import DatabaseSettings
from projections.store import reader_engine, writer_engine
from tests.support.events import body, event, mixed
from tests.support.servers import PostgresServer, RedisServer, wait_until
from workers.drain import Drainer
from workers.queue import drain_queue
from workers.runtime import Runtime, redis_client

EVENTS = 200_000
PARTITIONS = 8
TENANTS, PROJECTS = 20, 50
REQUESTS, CONNECTIONS = 10_000, 32


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    console = Console()
    console.print(f"{os.cpu_count()} cores, {psutil.virtual_memory().total >> 30} GiB, Python {sys.version.split()[0]}")
    table = Table(title=f"{events:,} events, {TENANTS} tenants, {TENANTS * PROJECTS:,} projects")
    for head in ("database", "events/s", "stats requests/s", "activity requests/s"):
        table.add_column(head, justify="left" if head == "database" else "right")
    with tempfile.TemporaryDirectory() as directory, _redis() as redis, _postgres() as postgres:
        urls = {"SQLite": f"sqlite:///{Path(directory) / 'bench.db'}", "PostgreSQL": postgres.url("bench")}
        for name, url in urls.items():
            database_url = DatabaseSettings.from_environ({"DATABASE_URL": url}).database_url
            with console.status(name):
                rates = [drain_rate(redis.url, database_url, events), *read_rates(redis.url, database_url)]
            table.add_row(name, *(f"{rate:,.0f}" for rate in rates))
    console.print(table)


def drain_rate(redis_url: str, database_url: str, events: int) -> float:
    """Return events per second of one worker that projects a backlog."""
    runtime = _runtime(redis_url, database_url)
    runtime.stream.redis.flushall()
    bodies = [(partition_of(each["tenantid"], PARTITIONS), body(each)) for each in _events(events)]
    for first in range(0, len(bodies), 1000):
        runtime.stream.append(bodies[first : first + 1000])
    started = time.perf_counter()
    for partition in range(PARTITIONS):
        drainer = Drainer(runtime, partition)
        while not drainer.step():
            pass
    return events / (time.perf_counter() - started)


def read_rates(redis_url: str, database_url: str) -> tuple[float, float]:
    """Return requests per second of both reads over random projects, through a real API process."""
    port = free_port("127.0.0.1")
    environ = os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "PORT": str(port),
    }
    engine = writer_engine(database_url)
    with engine.begin() as connection:
        made = [
            keys.create(connection, Kind.ORG, f"ten_{tenant}", None, frozenset({"config:read"}), 1)[0]
            for tenant in range(TENANTS)
        ]
    projects = sorted({(e["tenantid"], e["projectid"]) for e in _events(EVENTS // 10)})
    api = subprocess.Popen([sys.executable, "-m", "cli", "api"], env=environ)
    try:
        wait_until(lambda: asyncio.run(fetch_all(port, [("/readyz", {})], 1))[0] == 1, "the API is ready")
        chance = random.Random(3)
        stats = []
        activity = []
        for _ in range(REQUESTS):
            tenant, project = chance.choice(projects)
            headers = {"Authorization": f"Bearer {made[int(tenant.removeprefix('ten_'))]}"}
            stats.append((f"/v1/config/projects/project-{chance.randrange(PROJECTS)}/stats", headers))
            activity.append(("/v1/config/monitoring/activity?hours=720", headers | {"X-Project-Id": project}))
        return _rate(port, stats), _rate(port, activity)
    finally:
        api.terminate()
        api.wait()


def _rate(port: int, requests: list[tuple[str, dict[str, str]]]) -> float:
    ok, seconds = uvloop.run(fetch_all(port, requests, CONNECTIONS))
    if ok < len(requests) * 0.5:
        raise SystemExit(f"only {ok} of {len(requests)} requests were answered with 200")
    return len(requests) / seconds


def _events(count: int) -> Iterator[dict[str, Any]]:
    """Yield every project's creation, so that all can be read, then the standard mix."""
    made = list(mixed(count, tenants=TENANTS, projects=PROJECTS))
    projects = dict.fromkeys((e["tenantid"], e["projectid"]) for e in made)
    for number, (tenant, project) in enumerate(projects):
        slug = f"project-{number % PROJECTS}"
        yield event("project.created.v1", {"slug": slug}, tenantid=tenant, projectid=project)
    yield from made[len(projects) :]


def _runtime(redis_url: str, database_url: str) -> Runtime:
    migrate_database(database_url, PARTITIONS)
    return Runtime(
        settings=StreamSettings(partitions=PARTITIONS),
        stream=Stream(redis_client(redis_url), PARTITIONS),
        writer=writer_engine(database_url),
        reader=reader_engine(database_url),
        queue=drain_queue(redis_client(redis_url)),
    )


@contextmanager
def _redis() -> Iterator[RedisServer]:
    server = RedisServer()
    server.start()
    try:
        yield server
    finally:
        server.remove()


@contextmanager
def _postgres() -> Iterator[PostgresServer]:
    server = PostgresServer(durable=True)
    server.start()
    server.execute("CREATE DATABASE bench")
    try:
        yield server
    finally:
        server.remove()


main()
