"""An API on a standby of PostgreSQL: it reads, it says that it is one, and what lags there is what the page says."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from sqlalchemy import make_url

from api_stub.auth import keys
from api_stub.auth.keys import KeyKind
from tests.conftest import sqlalchemy_url
from tests.support.events import NOW_US, TENANT, event
from tests.support.harness import append, drain_all
from tests.support.metrics_scrape import Scraped
from tests.support.processes import Start
from tests.support.servers import PostgresServer, free_port, wait_until
from workers.doctor.context import Context
from workers.doctor.runner import run_checks
from workers.runtime import Runtime

STATS = "/v1/config/projects/checkout-api/stats"
pytestmark = pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)


@pytest.fixture
def standby(runtime: Runtime, postgres_server: PostgresServer) -> Iterator[PostgresServer]:
    """A standby, with what the primary holds so far."""
    made = PostgresServer(standby_of=postgres_server)
    made.start()
    yield made
    made.remove()


@pytest.fixture
def standby_url(standby: PostgresServer, database_url: str) -> str:
    return standby.url(str(make_url(database_url).database))


def test_an_api_on_a_standby_reads_and_names_itself_and_lags_behind_the_primary(
    runtime: Runtime, standby: PostgresServer, standby_url: str, start: Start, redis_url: str, tmp_path: Path
) -> None:
    append(runtime, event("project.created.v1"), event())
    drain_all(runtime)
    key = _create_key(runtime)
    port = free_port()
    start("cli", "api", PORT=str(port), DATABASE_URL=standby_url)
    api = f"http://127.0.0.1:{port}"
    wait_until(lambda: _count(api, key) == 1, "the standby has the event and the key", 90)

    scraped = Scraped.of(httpx.get(f"{api}/metrics", timeout=30).text)
    (applied,) = [
        value
        for (name, labels), value in scraped.samples.items()
        if name == "projector_entries_applied_total" and value and ("database", "standby") in labels
    ]
    assert applied == 2
    assert scraped.labels("projector_lag_seconds")["database"] == {"standby"}
    assert "database" not in scraped.labels("projector_queue_length")

    environ = {
        "REDIS_URL": redis_url,
        "DATABASE_URL": standby_url,
        "PROJECTOR_PARTITIONS": "4",
        "PROJECTOR_DATA_DIR": str(tmp_path),
    }
    with closing(Context.from_environ(environ)) as context:
        found = {finding.code: finding for finding in run_checks(context).findings}
    assert "postgres-read-only" not in found
    assert found["postgres-standby"].severity == "warning"
    assert found["postgres-standby"].message.startswith("it is a standby; its last transaction was committed at 20")
    assert "for an API process this is allowed" in found["postgres-standby"].remedy

    standby.execute("SELECT pg_wal_replay_pause()")
    append(runtime, event())
    drain_all(runtime)
    new_key = _create_key(runtime)
    assert (_count(api, key), _status(api, new_key)) == (1, 401)  # as old as the copy
    standby.execute("SELECT pg_wal_replay_resume()")
    wait_until(lambda: (_count(api, key), _status(api, new_key)) == (2, 200), "the standby catches up", 90)


def test_the_primary_is_not_labelled_as_a_standby(runtime: Runtime, database_url: str, start: Start) -> None:
    port = free_port()
    start("cli", "api", PORT=str(port), DATABASE_URL=sqlalchemy_url(database_url).replace("+psycopg", ""))
    wait_until(lambda: _is_up(f"http://127.0.0.1:{port}/metrics"), "the API answers", 90)
    scraped = Scraped.of(httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text)
    assert "database" not in scraped.labels("projector_lag_seconds")


def _create_key(runtime: Runtime) -> str:
    with runtime.writer.begin() as connection:
        return keys.create(connection, KeyKind.ORG, TENANT, None, frozenset({"config:read"}), NOW_US)[0]


def _is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def _status(api: str, key: str) -> int:
    return httpx.get(f"{api}{STATS}", headers={"Authorization": f"Bearer {key}"}, timeout=30).status_code


def _count(api: str, key: str) -> int | None:
    try:
        answer = httpx.get(f"{api}{STATS}", headers={"Authorization": f"Bearer {key}"}, timeout=30)
    except httpx.TransportError:
        return None
    return int(answer.json()["data"]["analysisCount"]) if answer.status_code == 200 else None
