"""Acceptance: a file of mixed events and bad entries of every kind goes through the whole path; reads equal the oracle.

PROJECTOR_TEST_EVENTS sets the number of events; the answers of every project are compared.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from projections.database.engines import reader_engine
from projections.transaction import checkpoint_table
from tests.support.api_client import assert_answers_equal
from tests.support.deployment import Deployment
from tests.support.events import NOW_US, body, event, mixed
from tests.support.harness import dump
from tests.support.oracle import Oracle
from tests.support.servers import wait_until
from workers.runtime import redis_client

EVENTS = int(os.environ.get("PROJECTOR_TEST_EVENTS", "20000"))
TENANTS, PROJECTS, PARTITIONS = 6, 20, 4

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def up(tmp_path: Path, database_url: str) -> Iterator[Deployment]:
    made = Deployment(
        tmp_path / "data", "--workers", "2", database_url=database_url, PROJECTOR_PARTITIONS=str(PARTITIONS)
    )
    made.start()
    made.await_ready()
    yield made
    made.remove()


@pytest.fixture
def found(database_url: str) -> Iterator[Engine]:
    engine = reader_engine(database_url)
    yield engine
    engine.dispose()


def bad_entries(made: list[dict[str, Any]], each: int) -> Iterator[tuple[str, int, bytes]]:
    """Yield (reason, partition, bytes): `each` entries for every reason that depends on the entry alone."""
    chance = random.Random(4)
    for number in range(each):
        good = chance.choice(made)
        owner = partition_of(good["tenantid"], PARTITIONS)
        fresh = event(tenantid=good["tenantid"], projectid=good["projectid"])
        yield "too_large", owner, body(fresh | {"pad": "x" * 65_536})
        yield "not_json", owner, b'{"number": %d, "x": NaN}' % number
        yield "not_an_event", owner, body(fresh | {"source": ""})
        yield "wrong_partition", (owner + 1) % PARTITIONS, body(fresh)
        yield "unknown_type", owner, body(fresh | {"type": "analysis.created.v2"})
        yield "invalid_data", owner, body(fresh | {"data": {"analysisId": number}})
        yield "time_in_future", owner, body(fresh | {"time": format_time(NOW_US + 30 * 86_400_000_000)})
        yield "id_conflict", owner, body(good | {"source": f"/other/{number}"})


async def test_both_reads_equal_the_oracle_and_the_counters_of_status_add_up(
    up: Deployment, found: Engine, tmp_path: Path
) -> None:
    made = list(mixed(EVENTS, tenants=TENANTS, projects=PROJECTS))
    oracle = Oracle()
    for each in made:
        oracle.add(each)
    chance = random.Random(2)
    lines = made + chance.sample(made, EVENTS // 20)
    chance.shuffle(lines)
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(map(body, lines)))

    assert json.loads(up.run("append", str(file), "--wait", "--json")) == {"appended": len(lines), "rejected": []}
    bad = list(bad_entries(made, EVENTS // 100))
    redis = redis_client(up.variables()["REDIS_URL"])
    for first in range(0, len(bad), 500):
        pipe = redis.pipeline(transaction=False)
        for _, partition, raw in bad[first : first + 500]:
            pipe.xadd(f"events:{{{partition}}}", {"event": raw})
        pipe.execute()
    wait_until(lambda: _lag(up) == 0, "the bad entries are projected", 120)

    status = json.loads(up.run("status", "--json"))
    for partition in status["partitions"]:
        assert partition["read"] == partition["applied"] + partition["duplicates"] + partition["dead_lettered"]
        assert partition["added"] == partition["read"] + partition["in_flight"] + partition["lost"]
        assert partition["added"] == redis.xinfo_stream(f"events:{{{partition['partition']}}}")["entries-added"]
    totals = Counter[str]()
    for partition in status["partitions"]:
        totals.update(
            {name: partition[name] for name in ("applied", "duplicates", "dead_lettered", "lost", "in_flight")}
        )
    assert totals == Counter(applied=EVENTS, duplicates=EVENTS // 20, dead_lettered=len(bad), lost=0, in_flight=0)
    assert status["open_dead_letters"] == Counter(reason for reason, _, _ in bad)
    problem, *sources = status["problems"]
    assert all("became dead letters" in each for each in sources)
    assert problem.startswith("dead letters are open: id_conflict")

    compared = await _compare(up, oracle)
    assert compared > TENANTS * PROJECTS
    before = dump(found)

    assert "rejected 0" in up.run("append", str(file), "--wait")
    chance.shuffle(lines)
    assert "rejected 0" in up.run("append", "-", "--wait", stdin=b"\n".join(map(body, lines)).decode())
    assert dump(found) == before
    with found.connect() as connection:
        assert sum(at.applied for at in checkpoint_table.read_all(connection, PARTITIONS)) == EVENTS
    redis.close()


async def test_bad_lines_of_a_file_are_reported_by_line_and_the_rest_is_appended(
    up: Deployment, tmp_path: Path
) -> None:
    good = [event() for _ in range(3)]
    lines = [
        body(good[0]),
        b"nonsense",
        b"",
        body(good[1]),
        body(event(id="")),
        body(event("watchdog.toggled.v1", {"enabled": 1})),
        body(event() | {"type": "x.v1"}),
        body(event(pad="x" * 66_000)),
        body(event(time=format_time(time.time_ns() // 1000 + 3_600_000_000))),
        b"  " + body(good[2]) + b"\r",
    ]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(lines) + b"\n")
    shown = up.run("append", str(file), "--wait", expect=1).splitlines()
    assert [line.split(": ")[:2] for line in shown[:-1]] == [
        ["line 2", "not_json"],
        ["line 5", "not_an_event"],
        ["line 6", "invalid_data"],
        ["line 7", "unknown_type"],
        ["line 8", "too_large"],
        ["line 9", "time_in_future"],
    ]
    assert shown[-1] == "appended 3, rejected 6"
    as_json = json.loads(up.run("append", str(file), "--json", expect=1))
    assert [each["line"] for each in as_json["rejected"]] == [2, 5, 6, 7, 8, 9]
    assert _lag(up) >= 0
    wait_until(lambda: _lag(up) == 0, "everything is projected")
    totals = json.loads(up.run("status", "--json"))["partitions"]
    assert sum(each["applied"] for each in totals) == 3
    assert sum(each["duplicates"] for each in totals) == 3


def _lag(up: Deployment) -> int:
    return sum(partition["lag_entries"] for partition in json.loads(up.run("status", "--json"))["partitions"])


async def _compare(up: Deployment, oracle: Oracle) -> int:
    keys = {
        tenant: up.run("keys", "create", "--tenant", tenant).strip()
        for tenant in {tenant for tenant, _ in oracle.projects()}
    }
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{up.port}", timeout=30) as client:

        async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
            response = await client.get(path, headers={"Authorization": f"Bearer {keys[tenant]}", **headers})
            if response.status_code == 404:
                return None
            assert response.status_code == 200, response.text
            return response.json()["data"]

        return await assert_answers_equal(oracle, ask, lambda: time.time_ns() // 1000, hours=240)
