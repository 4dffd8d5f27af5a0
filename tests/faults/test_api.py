"""The API while the database is down in different ways: it responds 503 quickly, and recovers by itself."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

from api_stub.lookups import coalesce
from projections.database.connection import BoundedAsyncConnection, BoundedConnection
from projections.database.engines import reader_engine
from tests.support.api_client import Api
from tests.support.events import PROJECT, TENANT, event
from tests.support.harness import append, drain_all
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer
from workers.runtime import Runtime

pytestmark = pytest.mark.anyio
STATS = "/v1/config/projects/checkout-api/stats"
# The longest wait for a connection or a response; busy machines get much more.
ANSWERED_WITHIN_S = 30


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Away:
    """An API, and faults of its database; each fault lasts as long as its `with` block."""

    api: Api
    reader: Engine
    proxy: Proxy
    server: PostgresServer

    @contextmanager
    def refused(self) -> Iterator[None]:
        self.proxy.refuse()
        yield
        assert self.proxy.happened > 0
        self.proxy.heal()

    @contextmanager
    def silent(self) -> Iterator[None]:
        self.proxy.partition()
        yield
        self.proxy.heal()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        self.server.stop()
        yield
        self.server.start()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Every query waits, on every connection of the API."""
        with psycopg.connect(self.server.url(str(self.reader.url.database))) as administrator:
            administrator.execute("LOCK TABLE project")
            yield
            administrator.rollback()

    @contextmanager
    def crowded(self) -> Iterator[None]:
        """The role of the API has reached its connection limit."""
        with psycopg.connect(self.server.url(str(self.reader.url.database)), autocommit=True) as administrator:
            administrator.execute("ALTER ROLE reading CONNECTION LIMIT 0")
            administrator.execute(
                "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'reading'"
            )
            yield
            administrator.execute("ALTER ROLE reading CONNECTION LIMIT -1")


@pytest.fixture
def away(
    runtime: Runtime, postgres_url: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Away]:
    append(runtime, event("project.created.v1"), event())
    drain_all(runtime)
    for each in (BoundedConnection, BoundedAsyncConnection):
        monkeypatch.setattr(each, "answer_timeout_s", 1.0)
    monkeypatch.setattr(coalesce, "QUERY_TIMEOUT_S", 1.0)
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as administrator:
        administrator.execute("CREATE ROLE reading LOGIN")
        administrator.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO reading")
    proxy = Proxy(postgres_server.port)
    through = postgres_url.replace("postgres@", "reading@").replace(str(postgres_server.port), str(proxy.port))
    reader = reader_engine(through)
    api = Api(runtime.writer, reader)
    yield Away(api, reader, proxy, postgres_server)
    api.close()
    reader.dispose()
    proxy.close()
    with psycopg.connect(postgres_url.replace("+psycopg", ""), autocommit=True) as administrator:
        administrator.execute("DROP OWNED BY reading")
        administrator.execute("DROP ROLE reading")


async def assert_unavailable(api: Api, key: str) -> None:
    started = time.monotonic()
    response = await api.ask(STATS, key)
    assert time.monotonic() - started < ANSWERED_WITHIN_S
    assert (response.status_code, response.json()["error"]["code"]) == (503, "UNAVAILABLE")
    assert int(response.headers["retry-after"]) > 0


async def assert_comes_back(api: Api, key: str) -> None:
    deadline = time.monotonic() + 60
    while (response := await api.ask(STATS, key)).status_code == 503:
        assert time.monotonic() < deadline
    assert response.status_code == 200
    assert response.json()["data"]["analysisCount"] == 1


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("fault", [Away.refused, Away.silent, Away.stopped, Away.locked, Away.crowded])
async def test_a_read_is_refused_quickly_while_postgresql_is_down(
    away: Away, fault: Callable[[Away], AbstractContextManager[None]]
) -> None:
    key = away.api.key(TENANT, PROJECT)
    await assert_comes_back(away.api, key)
    with fault(away):
        await assert_unavailable(away.api, key)
        # Later readers get the same response.
        await assert_unavailable(away.api, key)
        assert (await away.api.ask("/healthz")).status_code == 200
    await assert_comes_back(away.api, key)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_checks_that_use_the_whole_pool_do_not_delay_readiness_further(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    with away.reader.connect(), away.reader.connect():
        refused = await away.api.ask("/readyz")
        assert (refused.status_code, refused.json()["status"]) == (503, "failing")
        monkeypatch.setattr(coalesce, "QUERY_TIMEOUT_S", 30.0)
        assert (await away.api.ask(STATS, away.api.key(TENANT, PROJECT))).status_code == 200
    assert (await away.api.ask("/readyz")).status_code == 200


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_a_connection_that_the_server_closed_while_idle_fails_no_request(
    away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = away.api.key(TENANT, PROJECT)
    await assert_comes_back(away.api, key)
    with psycopg.connect(away.server.url(str(away.reader.url.database)), autocommit=True) as administrator:
        ended = administrator.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = 'reading'"
        ).fetchall()
    assert (True,) in ended
    monkeypatch.setattr(coalesce, "QUERY_TIMEOUT_S", 30.0)
    assert (await away.api.ask(STATS, key)).status_code == 200


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_a_read_is_refused_quickly_while_the_database_file_is_missing(runtime: Runtime) -> None:
    append(runtime, event("project.created.v1"), event())
    drain_all(runtime)
    api = Api(runtime.writer, runtime.reader)
    key = api.key(TENANT, PROJECT)
    file = Path(str(runtime.reader.url.database))
    folder, away = file.parent, file.parent.with_name("away")
    for engine in (runtime.writer, runtime.reader):
        engine.dispose()
    folder.rename(away)
    await assert_unavailable(api, key)
    assert (await api.ask("/readyz")).status_code == 503
    away.rename(folder)
    await assert_comes_back(api, key)
    assert (await api.ask("/readyz")).status_code == 200
    api.close()
