"""Threads that generate load: appends, reads, scrapes and replays, each at its own rate."""

import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Event, Thread

import httpx

from event_stream.streams.stream import Stream
from projections.lifecycle.dead_letter_admin import Selection
from tests.soak.deployment import SoakDeployment
from tests.soak.plan import PARTITIONS, REPLAY_S, SCRAPE_S, Plan
from tests.soak.traffic import Traffic
from workers.maintenance.replay import replay

APPENDS_PER_S = 10


class LoadThread(Thread):
    """Calls `act` `per_s` times a second until it is stopped. An exception ends it and is kept in `error`."""

    def __init__(self, act: Callable[[], None], per_s: float) -> None:
        super().__init__(daemon=True)
        self.act, self.pause_s = act, 1 / per_s
        self.stopped = Event()
        self.error: Exception | None = None

    def run(self) -> None:
        next_s = time.monotonic()
        try:
            while not self.stopped.wait(max(0.0, next_s - time.monotonic())):
                self.act()
                next_s += self.pause_s
        except Exception as error:
            self.error = error


@contextmanager
def running_load(plan: Plan, where: SoakDeployment, traffic: Traffic, done: Counter[str]) -> Iterator[list[LoadThread]]:
    """Run all threads within this block; `done` counts their actions."""
    with ExitStack() as stack:
        own = stack.enter_context(where.client())
        web = stack.enter_context(httpx.Client(base_url=where.api_url, timeout=30))
        appending = partial(_append, Stream(own, PARTITIONS), traffic, plan, done)
        acts: list[tuple[Callable[[], None], float]] = [
            (appending, APPENDS_PER_S),
            (
                partial(_read, web, reads(plan, where.api_keys, traffic.project_ids), done),
                plan.reads_per_s * plan.speed,
            ),
            (partial(_scrape, web, done), plan.speed / SCRAPE_S),
            (partial(_replay, where, done), plan.speed / REPLAY_S),
        ]
        threads = [LoadThread(act, per_s) for act, per_s in acts]
        stack.callback(_stop, threads)
        for thread in threads:
            thread.start()
        yield threads


def _stop(threads: list[LoadThread]) -> None:
    for thread in threads:
        thread.stopped.set()
    for thread in threads:
        thread.join()


def reads(plan: Plan, api_keys: dict[str, str], projects: dict[str, list[str]]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield requests of both routes for all projects, endlessly."""
    for number in itertools.count():
        tenant = f"ten_{number % plan.tenants}"
        headers = {"Authorization": f"Bearer {api_keys[tenant]}"}
        project = number // plan.tenants % plan.projects
        yield f"/v1/config/projects/project-{project}/stats", headers
        hours = 1 + number % 720
        header = {"X-Project-Id": projects[tenant][project]}
        yield f"/v1/config/monitoring/activity?hours={hours}", headers | header


def _append(stream: Stream, traffic: Traffic, plan: Plan, done: Counter[str]) -> None:
    entries = traffic.now(round(plan.events_per_s * plan.speed / APPENDS_PER_S))
    stream.append(entries)
    done["entries appended"] += len(entries)


def _read(web: httpx.Client, requests: Iterator[tuple[str, dict[str, str]]], done: Counter[str]) -> None:
    path, headers = next(requests)
    answer = web.get(path, headers=headers)
    # A project may just have been deleted, or its slug taken by another.
    assert answer.status_code in (200, 404), answer.text
    route = "stats" if path.endswith("stats") else "activity"
    done[f"reads of {route} answered {answer.status_code}"] += 1


def _scrape(web: httpx.Client, done: Counter[str]) -> None:
    for path in ("/metrics", "/healthz/projector", "/readyz"):
        answer = web.get(path)
        assert answer.status_code == 200, answer.text
    done["scrapes of metrics and health"] += 1


def _replay(where: SoakDeployment, done: Counter[str]) -> None:
    done["dead letters replayed"] += replay(where.runtime, Selection()).appended
