"""`status`, health and the alerts say alike what is wrong, and none is green while an entry is parked, lost or stuck."""

import io
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
from cli.commands.api import projector_health
from cli.rendering.status_screen import StatusScreen
from event_stream.event_types import partition_of
from tests.support.alerting import firing
from tests.support.driving import append, append_raw, drain_all
from tests.support.events import TENANT, event
from tests.support.processes import Start
from tests.support.scraping import scrape
from tests.support.servers import wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import BEAT_MS, worker
from workers.reporting.overview import read_overview
from workers.reporting.status import read_workers
from workers.runtime import Runtime

HOME = partition_of(TENANT, 4)
LONG_S = 60


def nothing(runtime: Runtime, start: Start) -> None:
    append(runtime, event())
    drain_all(runtime)


def parked(runtime: Runtime, start: Start) -> None:
    append_raw(runtime, HOME, b"nonsense")
    drain_all(runtime)


def lost(runtime: Runtime, start: Start) -> None:
    append(runtime, event())
    assert runtime.stream.redis.xtrim(f"events:{{{HOME}}}", maxlen=0, approximate=False) == 1
    drain_all(runtime)


def stuck(runtime: Runtime, start: Start) -> None:
    long_ago_ms = runtime.stream.now_ms() - 10 * LONG_S * 1000
    runtime.stream.redis.xadd(f"events:{{{HOME}}}", {"event": b"x"}, id=f"{long_ago_ms}-0")


def one_worker_stalled(runtime: Runtime, start: Start) -> None:
    known = {each.name for each in read_workers(runtime)}
    process = start("cli", "worker")
    wait_until(lambda: len(read_workers(runtime)) == 2, "it is known", 90)
    (name,) = {each.name for each in read_workers(runtime)} - known
    wait_until(lambda: runtime.queue.connection.hexists(f"rq:worker:{name}", BEAT_MS), "it is heard", 90)
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, "it is paused")
    Dispatcher(runtime).sweep()  # that took a while, and one dispatcher is to be alive
    _silence(runtime, name)


def every_worker_stalled(runtime: Runtime, start: Start) -> None:
    one_worker_stalled(runtime, start)
    for each in read_workers(runtime):
        _silence(runtime, each.name)


def no_dispatcher(runtime: Runtime, start: Start) -> None:
    runtime.queue.connection.delete(
        "projector:dispatcher-heartbeats"
    )  # as Redis does two minutes after the last one ended


def _silence(runtime: Runtime, name: str) -> None:
    """Move a worker's last sign of life into the past, as nobody wants to wait for that."""
    client: Any = runtime.queue.connection
    client.hset(f"rq:worker:{name}", BEAT_MS, runtime.stream.now_ms() - LONG_S * 1000)


@dataclass(frozen=True)
class Case:
    """Something goes wrong: how it is made, how health calls it, what is said, and which alerts fire."""

    happens: Callable[[Runtime, Start], None]
    health: str
    says: str | None
    alerts: frozenset[str]


CASES = [
    Case(nothing, "ok", None, frozenset()),
    Case(parked, "degraded", "dead letters are open: not_json 1", frozenset({"ProjectorDeadLettersOpen"})),
    Case(lost, "degraded", f"partition {HOME} lost 1 entries", frozenset({"ProjectorEntriesLost"})),
    Case(stuck, "failing", f"partition {HOME} is stalled", frozenset({"ProjectorPartitionStalled", "ProjectorLags"})),
    Case(one_worker_stalled, "degraded", "1 of 2 workers gave no sign of life", frozenset({"ProjectorProcessSilent"})),
    Case(
        every_worker_stalled,
        "failing",
        "no worker is alive",
        frozenset({"ProjectorNobodyWorks", "ProjectorProcessSilent"}),
    ),
    Case(no_dispatcher, "failing", "no dispatcher is alive", frozenset({"ProjectorNobodyWorks"})),
]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.happens.__name__)
def test_status_health_and_alerts_say_it_alike(runtime: Runtime, start: Start, case: Case) -> None:
    Dispatcher(runtime).sweep()
    alive = worker(runtime)
    alive.register_birth()  # type: ignore[no-untyped-call]
    alive.heartbeat()
    before = scrape(runtime)
    assert firing(before, before) == set()
    case.happens(runtime, start)
    found = read_overview(runtime)
    shown = in_pipe(StatusScreen(found))
    with asked(runtime) as ask:
        response = ask()
    problems = response.json()["problems"]
    assert (found.health, response.json()["status"]) == (case.health, case.health)
    assert response.status_code == (503 if case.health == "failing" else 200)
    assert f"health: {case.health}\n" in shown
    assert [line for line in shown.splitlines() if line.startswith("problem: ")] == [f"problem: {p}" for p in problems]
    assert [problem.startswith(str(case.says)) for problem in problems] == [True] * (case.says is not None)
    assert firing(before, scrape(runtime)) == case.alerts


def in_pipe(screen: StatusScreen) -> str:
    console = Console(width=240, file=io.StringIO(), record=True)
    console.print(screen)
    return console.export_text()


@contextmanager
def asked(runtime: Runtime) -> Iterator[Callable[[], httpx.Response]]:
    """Yield what asks this process's GET /healthz/projector."""
    executor = ThreadPoolExecutor(1)

    async def scraped() -> bytes:
        return b""

    operations = Operations.on(runtime.reader, executor, lambda: projector_health(runtime), scraped)
    transport = httpx.ASGITransport(application(operations_routes(operations)))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/healthz/projector")

    yield lambda: anyio.run(ask)
    executor.shutdown()
