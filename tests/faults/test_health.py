"""Health is not green while anything is dead, stuck, parked or lost, and it responds even if a server does not."""

import io
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from rich.console import Console

from api_stub.operations import Health
from cli.rendering.status_screen import StatusScreen
from event_stream.events.event import partition_of
from monitoring.health import projector_health
from tests.support.events import TENANT, event
from tests.support.harness import append, append_raw, drain_all, totals
from tests.support.metrics_scrape import Scraped, scrape
from tests.support.processes import Start
from tests.support.proxy import Proxy
from tests.support.servers import RedisServer, free_port, wait_until
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.reporting import problems, status
from workers.reporting.overview import read_overview
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
# An idle worker gives a sign of life every 5 s.
SILENT_S = 8.0


@pytest.fixture
def alive(runtime: Runtime) -> Runtime:
    """A deployment whose processes have just sent heartbeats."""
    Dispatcher(runtime).sweep()
    create_worker(runtime).register_birth()  # type: ignore[no-untyped-call]
    return runtime


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_health_fails_while_processes_are_dead_even_if_nothing_is_pending(
    runtime: Runtime, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "STALLED_AFTER_S", SILENT_S)
    loops = [start("cli", "worker"), start("cli", "dispatcher")]
    append(runtime, event())
    wait_until(
        lambda: totals(runtime)["read"] == 1 and projector_health(runtime) == Health([], []),
        "everything is healthy",
        90,
    )
    for loop in loops:
        loop.send_signal(signal.SIGSTOP)
    dead = [
        "no dispatcher is alive; start `projector dispatcher`",
        "no worker is alive; start `projector worker`",
    ]
    wait_until(lambda: projector_health(runtime).errors == dead, "health notices", 90)
    found = read_status(runtime)
    assert [each.lag_entries for each in found.partitions] == [0, 0, 0, 0]  # the lag alone would look healthy
    assert problems.all_problems(found) == dead
    assert scrape(runtime)("projector_processes", role="worker", state="alive") == 0
    for loop in loops:
        loop.send_signal(signal.SIGCONT)
    wait_until(lambda: projector_health(runtime).errors == [], "both send heartbeats again", 90)


@pytest.mark.first
def test_dead_letters_and_lost_entries_are_warnings_and_do_not_fail_health(alive: Runtime) -> None:
    assert projector_health(alive) == Health([], [])
    append_raw(alive, TENANT_PARTITION, b"nonsense")
    drain_all(alive)
    parked = "dead letters are open: not_json 1; see `projector dead-letters list`"
    assert projector_health(alive) == Health([], [parked])
    append(alive, event())
    alive.stream.redis.xtrim(f"events:{{{TENANT_PARTITION}}}", maxlen=0, approximate=False)
    lost = (
        f"partition {TENANT_PARTITION} lost 1 unread entry; let producers append again what they still have, then run"
        " `projector lost acknowledge`"
    )
    assert projector_health(alive) == Health([], [parked, lost])
    drain_all(alive)
    assert problems.all_problems(read_status(alive)) == [parked, lost]
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(StatusScreen(read_overview(alive)))
    assert f"problem: {parked}" in console.export_text()


@pytest.mark.first
def test_a_stuck_partition_fails_health(alive: Runtime) -> None:
    long_ago_ms = alive.stream.now_ms() - 600_000
    alive.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": b"x"}, id=f"{long_ago_ms}-0")
    (stalled,) = projector_health(alive).errors
    assert stalled.startswith(f"partition {TENANT_PARTITION} is stalled, 1 entry and ")


@dataclass
class Served:
    """An API process that reaches Redis through a proxy."""

    url: str
    proxy: Proxy

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def health(self) -> tuple[int, dict[str, Any]]:
        response = self.get("/healthz/projector")
        return response.status_code, response.json()


@pytest.fixture
def served(alive: Runtime, redis_server: RedisServer, start: Start) -> Iterator[Served]:
    proxy, port = Proxy(redis_server.port), free_port()
    start("cli", "api", PORT=str(port), REDIS_URL=f"redis://127.0.0.1:{proxy.port}/0")
    made = Served(f"http://127.0.0.1:{port}", proxy)
    wait_until(lambda: _is_ready(made), "reads succeed", 90)
    yield made
    proxy.close()


def _is_ready(served: Served) -> bool:
    try:
        return served.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_while_redis_does_not_respond_health_and_metrics_report_it(served: Served) -> None:
    assert Scraped.of(served.get("/metrics").text)("projector_up", server="redis") == 1
    served.proxy.partition()
    code, said = served.health()
    assert (code, said["status"]) == (503, "failing")
    assert said["problems"] in (
        ["Redis cannot be reached"],
        ["no answer to this check within 5 s"],
    )  # on a slow machine
    metrics = served.get("/metrics")
    scraped = Scraped.of(metrics.text)
    assert metrics.status_code == 200
    assert (scraped("projector_up", server="redis"), scraped("projector_up", server="database")) == (0, 1)
    assert served.get("/readyz").status_code == 200
    assert scraped("projector_api_request_seconds_count", route="/healthz/projector", status="503") == 1
    served.proxy.heal()
    wait_until(lambda: _scraped(served)("projector_up", server="redis") == 1, "reads succeed again", 90)


def _scraped(served: Served) -> Scraped:
    return Scraped.of(served.get("/metrics").text)
