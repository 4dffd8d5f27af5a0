"""A failover that closes no connection: the address leads to the new server, and the old one answers, read-only."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from api_stub.auth import keys
from api_stub.auth.keys import KeyId, KeyKind
from api_stub.lookups.postgresql import PostgresqlDatabase
from projections.database import connection as connections
from projections.database.engines import writer_engine
from tests.support.failpoints import fail_at
from tests.support.harness import closing_runtime
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer, wait_until
from tests.support.workload import Workload
from workers.runtime import Runtime

pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@dataclass
class Failover:
    """A server, its standby, and the address behind which both are."""

    old: PostgresServer
    new: PostgresServer
    proxy: Proxy
    url: str

    def happen(self) -> None:
        """Promote the standby, send new connections to it, and let the old server refuse writes."""
        self.old.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        self.old.execute("SELECT pg_reload_conf()")
        written = value_of(self.old, "SELECT pg_current_wal_lsn()")
        wait_until(
            lambda: value_of(self.new, f"SELECT pg_last_wal_replay_lsn() >= '{written}'"), "the standby has all commits"
        )
        self.new.execute("SELECT pg_promote()")  # returns once it is promoted
        self.proxy.retarget(self.new.port)

    @property
    def new_url(self) -> str:
        return self.url.replace(str(self.proxy.port), str(self.new.port))


@pytest.fixture
def failover(database_url: str, postgres_server: PostgresServer) -> Iterator[Failover]:
    new = PostgresServer(standby_of=postgres_server)
    new.start()
    proxy = Proxy(postgres_server.port)
    yield Failover(postgres_server, new, proxy, database_url.replace(str(postgres_server.port), str(proxy.port)))
    proxy.close()
    new.remove()
    postgres_server.execute("ALTER SYSTEM RESET default_transaction_read_only")
    postgres_server.execute("SELECT pg_reload_conf()")


@pytest.fixture
def runtime(failover: Failover, redis_url: str) -> Iterator[Runtime]:
    """A runtime that sends every statement through the proxy."""
    environ = {"DATABASE_URL": failover.url, "REDIS_URL": redis_url, "PROJECTOR_PARTITIONS": "4"}
    with closing_runtime(Runtime.from_environ(environ)) as made:
        made.check()
        yield made


@pytest.mark.parametrize("point", ["after read", "after commit"])
def test_drains_continue_on_the_new_server(
    failover: Failover, runtime: Runtime, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Within seconds, long before the connections are too old."""
    work = Workload.load(runtime)
    fail_at(monkeypatch, point, failover.happen)
    work.run_until_drained(40)
    assert any("ReadOnlySqlTransaction" in failure for failure in work.failures())
    assert failover.proxy.happened == 0  # no connection was cut
    runtime.reader.dispose()  # status may read from the old server until its connections are too old
    work.assert_complete()


def test_reads_reach_the_new_server_when_their_connections_are_too_old(
    failover: Failover, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTION_AGE_MAX_S", 1.0)
    reading = writer_engine(failover.url)

    async def read_until_seen(database: PostgresqlDatabase) -> None:
        assert await database.read(keys.lookup, [KeyId("x")]) == {}
        failover.happen()
        key = create_key(failover)
        deadline = time.monotonic() + 30
        while not await database.read(keys.lookup, [KeyId(key)]):
            assert time.monotonic() < deadline, "the API still reads from the old server"
            await asyncio.sleep(0.05)
        assert database.connections().open == 1

    with closing(PostgresqlDatabase(reading)) as database:
        asyncio.run(read_until_seen(database))
    assert failover.proxy.happened == 0


def test_a_pool_replaces_connections_that_are_too_old_one_by_one(
    failover: Failover, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CONNECTION_AGE_MAX_S", 1.0)
    runtime.reader.dispose()
    with runtime.reader.connect() as connection:
        before = connection.scalar(text("SELECT pg_backend_pid()"))
    with runtime.reader.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) == before

    def is_replaced() -> bool:
        with runtime.reader.connect() as connection:
            return bool(connection.scalar(text("SELECT pg_backend_pid()")) != before)

    wait_until(is_replaced, "the connection is replaced", 30)


def value_of(server: PostgresServer, query: str) -> Any:
    with psycopg.connect(server.url()) as session:
        row = session.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


def create_key(failover: Failover) -> str:
    """Create an API key on the new server."""
    engine = writer_engine(failover.new_url)
    try:
        with engine.begin() as connection:
            _, key = keys.create(connection, KeyKind.ORG, "ten_a", None, frozenset(), 0)
        return key.key_id
    finally:
        engine.dispose()
