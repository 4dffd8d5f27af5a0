"""`status`, health and alerts agree about what is wrong, and none is green while an entry is parked, lost or stuck."""

import io
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import httpx
import psutil
import pytest
from rich.console import Console

from api_stub.app import application, operations_routes
from api_stub.operations import Operations
from api_stub.serving.shutdown import Shutdown
from cli.rendering.status_screen import StatusScreen
from event_stream.events.event import partition_of
from event_stream.streams.stream_keys import DATABASE_KEY, DEPLOYMENT_KEY
from monitoring.health import projector_health
from tests.support.alerts import INHIBIT_RULES, RULES, firing, notified
from tests.support.events import TENANT, body, event
from tests.support.harness import append, append_raw, drain_all
from tests.support.metrics_scrape import scrape
from tests.support.processes import Start
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import HEARTBEAT_FIELD, create_worker
from workers.reporting.heartbeats import read_workers
from workers.reporting.overview import read_overview
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
LONG_S = 60


def nothing(runtime: Runtime, start: Start) -> None:
    append(runtime, event())
    drain_all(runtime)


def parked(runtime: Runtime, start: Start) -> None:
    append_raw(runtime, TENANT_PARTITION, b"nonsense")
    drain_all(runtime)


def lost(runtime: Runtime, start: Start) -> None:
    append(runtime, event())
    assert runtime.stream.redis.xtrim(f"events:{{{TENANT_PARTITION}}}", maxlen=0, approximate=False) == 1
    drain_all(runtime)


def stuck(runtime: Runtime, start: Start) -> None:
    long_ago_ms = runtime.stream.now_ms() - 10 * LONG_S * 1000
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": b"x"}, id=f"{long_ago_ms}-0")


def ids_ahead(runtime: Runtime, start: Start) -> None:
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": body(event())}, id="9999999999999-0")
    drain_all(runtime)


def ids_exhausted(runtime: Runtime, start: Start) -> None:
    largest = f"{2**64 - 1}-{2**64 - 1}"
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": body(event())}, id=largest)
    drain_all(runtime)


def one_worker_stalled(runtime: Runtime, start: Start) -> None:
    known = {each.name for each in read_workers(runtime)}
    process = start("cli", "worker")
    wait_until(lambda: len(read_workers(runtime)) == 2, "the worker is registered", 90)
    (name,) = {each.name for each in read_workers(runtime)} - known
    wait_until(
        lambda: runtime.queue.connection.hexists(f"rq:worker:{name}", HEARTBEAT_FIELD),
        "the worker sends a heartbeat",
        90,
    )
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "the process is paused")
    Dispatcher(runtime).sweep()  # the start took a while, and a dispatcher must be alive
    _silence(runtime, name)


def every_worker_stalled(runtime: Runtime, start: Start) -> None:
    one_worker_stalled(runtime, start)
    for each in read_workers(runtime):
        _silence(runtime, each.name)


def no_dispatcher(runtime: Runtime, start: Start) -> None:
    runtime.queue.connection.delete(
        "projector:dispatcher-heartbeats"
    )  # as if it had expired, two minutes after the last dispatcher ended


def of_another_deployment(runtime: Runtime, start: Start) -> None:
    runtime.stream.redis.set(DEPLOYMENT_KEY, "another")


def with_a_copied_database(runtime: Runtime, start: Start) -> None:
    runtime.stream.redis.set(DATABASE_KEY, "another")


def refused_writes(runtime: Runtime, start: Start) -> None:
    runtime.stream.redis.config_set("min-replicas-to-write", 1)


def _silence(runtime: Runtime, name: str) -> None:
    """Move a worker's last heartbeat into the past, instead of waiting."""
    client: Any = runtime.queue.connection
    client.hset(f"rq:worker:{name}", HEARTBEAT_FIELD, runtime.stream.now_ms() - LONG_S * 1000)


@dataclass(frozen=True)
class Case:
    """A problem: how to provoke it, the status of health, the message, and the alerts that fire."""

    happens: Callable[[Runtime, Start], None]
    health: str
    says: str | None
    alerts: frozenset[str]
    inhibited: frozenset[str] = frozenset()


CASES = [
    Case(nothing, "ok", None, frozenset()),
    Case(parked, "degraded", "dead letters are open: not_json 1", frozenset({"ProjectorDeadLettersOpen"})),
    Case(lost, "degraded", f"partition {TENANT_PARTITION} lost 1 unread entry", frozenset({"ProjectorEntriesLost"})),
    Case(
        stuck,
        "failing",
        f"partition {TENANT_PARTITION} is stalled",
        frozenset({"ProjectorPartitionStalled", "ProjectorLags"}),
        inhibited=frozenset({"ProjectorLags"}),
    ),
    Case(
        ids_ahead,
        "degraded",
        f"partition {TENANT_PARTITION} gives ids that are ",
        frozenset({"ProjectorEntryIdsAhead"}),
    ),
    Case(
        ids_exhausted,
        "failing",
        f"partition {TENANT_PARTITION} accepts no more entries",
        frozenset({"ProjectorEntryIdsExhausted", "ProjectorEntryIdsAhead"}),
        inhibited=frozenset({"ProjectorEntryIdsAhead"}),
    ),
    Case(one_worker_stalled, "degraded", "1 of 2 workers sent no heartbeat", frozenset({"ProjectorProcessSilent"})),
    Case(
        every_worker_stalled,
        "failing",
        "no worker is alive",
        frozenset({"ProjectorProcessMissing", "ProjectorProcessSilent"}),
        inhibited=frozenset({"ProjectorProcessSilent"}),
    ),
    Case(
        of_another_deployment,
        "failing",
        "Redis belongs to deployment another, but",
        frozenset({"ProjectorDeploymentDiffers"}),
    ),
    Case(
        with_a_copied_database,
        "failing",
        "the database is a copy",
        frozenset({"ProjectorDeploymentDiffers"}),
    ),
    Case(
        refused_writes,
        "failing",
        "Redis refuses writes, so producers cannot append: NOREPLICAS",
        frozenset({"ProjectorRedisRefusesWrites"}),
    ),
    Case(no_dispatcher, "failing", "no dispatcher is alive", frozenset({"ProjectorProcessMissing"})),
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.happens.__name__)
def test_status_health_and_alerts_agree_about_what_is_wrong(
    request: pytest.FixtureRequest, runtime: Runtime, start: Start, case: Case
) -> None:
    Dispatcher(runtime).sweep()
    alive = create_worker(runtime)
    alive.register_birth()  # type: ignore[no-untyped-call]
    alive.heartbeat()
    before = scrape(runtime)
    assert firing(before, before) == []
    request.addfinalizer(lambda: runtime.stream.redis.config_set("min-replicas-to-write", 0))
    case.happens(runtime, start)
    found = read_overview(runtime)
    shown = in_pipe(StatusScreen(found))
    with health_client(runtime) as ask:
        response = ask()
    problems = response.json()["problems"]
    assert (found.health, response.json()["status"]) == (case.health, case.health)
    assert response.status_code == (503 if case.health == "failing" else 200)
    assert f"health: {case.health}\n" in shown
    assert [line for line in shown.splitlines() if line.startswith("problem: ")] == [f"problem: {p}" for p in problems]
    assert [problem.startswith(str(case.says)) for problem in problems] == [True] * (case.says is not None)
    alerts = firing(before, scrape(runtime))
    assert {alert["alertname"] for alert in alerts} == case.alerts
    notifications = [alert["alertname"] for alert in notified(alerts)]
    assert len(notifications) == (case.health != "ok")  # one cause, one notification
    assert set(notifications) == case.alerts - case.inhibited


@pytest.mark.first
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_stopped_workers_page_once_although_entries_wait_in_every_partition(runtime: Runtime) -> None:
    Dispatcher(runtime).sweep()
    before = scrape(runtime)
    long_ago_ms = runtime.stream.now_ms() - 10 * LONG_S * 1000
    for partition in range(4):
        runtime.stream.redis.xadd(f"events:{{{partition}}}", {"event": b"x"}, id=f"{long_ago_ms}-0")
    now = scrape(runtime)
    assert [now("projector_partition_stalled", partition=str(partition)) for partition in range(4)] == [1] * 4
    alerts = firing(before, now)
    assert sorted(alert["alertname"] for alert in alerts) == [
        "ProjectorLags",
        "ProjectorPartitionStalled",
        "ProjectorProcessMissing",
    ]
    assert notified(alerts) == [{"alertname": "ProjectorProcessMissing", "severity": "page", "role": "worker"}]


def test_an_inhibition_rule_names_alerts_that_exist() -> None:
    names = {rule["alert"] for rule in RULES}
    for rule in INHIBIT_RULES:
        for matcher in (*rule["source_matchers"], *rule["target_matchers"]):
            label, value = re.split("=~?", matcher, maxsplit=1)
            alternatives = re.fullmatch(r"(\w*)\(([\w|]+)\)", value.strip('"'))
            found = (
                {alternatives[1] + each for each in alternatives[2].split("|")} if alternatives else {value.strip('"')}
            )
            assert found <= (names if label == "alertname" else {"database"}), matcher


def in_pipe(screen: StatusScreen) -> str:
    console = Console(width=240, file=io.StringIO(), record=True)
    console.print(screen)
    return console.export_text()


@contextmanager
def health_client(runtime: Runtime) -> Iterator[Callable[[], httpx.Response]]:
    """Yield a function that requests GET /healthz/projector from this process."""
    executor = ThreadPoolExecutor(1)

    async def scraped() -> bytes:
        return b""

    operations = Operations.create(runtime.reader, executor, lambda: projector_health(runtime), scraped, Shutdown())
    transport = httpx.ASGITransport(application(operations_routes(operations)))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/healthz/projector")

    yield lambda: anyio.run(ask)
    executor.shutdown()
