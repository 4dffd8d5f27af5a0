"""What clients observe when a process is killed: an API during reads, an `append` in the middle of its file."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from tests.support.api_client import Api
from tests.support.events import NOW_US, PROJECT, TENANT, body, event
from tests.support.harness import append, drain_all
from tests.support.invariants import assert_fully_projected
from tests.support.processes import PATIENT_API, Start
from tests.support.servers import free_port, wait_until
from workers.drain.batch_size import BatchSize
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime

TENANT_PARTITION = partition_of(TENANT, 4)
STATS = "/v1/config/projects/checkout-api/stats"
ACTIVITY = "/v1/config/monitoring/activity?hours=720"
LINES = 10_000


class Readers:
    """Request both reads continuously, and check every response."""

    def __init__(self, url: str, key: str, activity: Any) -> None:
        self.url = url
        self.headers = {"Authorization": f"Bearer {key}"}
        self.activity = activity
        self.answers = 0
        self.errors = 0
        self.wrong: list[Any] = []

    @contextmanager
    def reading(self, threads: int = 4) -> Iterator[None]:
        stopping = threading.Event()
        running = [threading.Thread(target=self._read, args=(stopping,)) for _ in range(threads)]
        for thread in running:
            thread.start()
        yield
        stopping.set()
        for thread in running:
            thread.join()

    def _read(self, stopping: threading.Event) -> None:
        with httpx.Client(base_url=self.url, headers=self.headers, timeout=30) as client:
            while not stopping.is_set():
                for path in (STATS, ACTIVITY):
                    try:
                        response = client.get(path)
                    except httpx.TransportError:
                        self.errors += 1
                        stopping.wait(0.02)
                        continue
                    if response.status_code != 200 or not self._is_whole(path, response.json()["data"]):
                        self.wrong.append(response.text)
                    self.answers += 1

    def _is_whole(self, path: str, data: Any) -> bool:
        # Sources and repos are appended in pairs, each pair in one batch: a response with half a pair mixes two states.
        return bool(data["logSourceCount"] == data["repoCount"] if path == STATS else data == self.activity)


@pytest.mark.first
def test_an_api_killed_during_reads_sends_complete_responses_or_none_and_the_next_process_serves(
    runtime: Runtime, start: Start
) -> None:
    made = [event("project.created.v1")]
    for number in range(100):
        large = {"summary": "x" * 1000, "ruleName": f"rule {number}"}
        made.append(event("watchdog.evaluated.v1", large, time=format_time(NOW_US - number * 1_000_000)))
    append(runtime, *made)
    drain_all(runtime)
    own = Api(runtime.writer, runtime.reader)
    key = own.key(TENANT, PROJECT)
    own.close()
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    api = start("tests.support.override_constants", "api", json.dumps(PATIENT_API), PORT=port)
    wait_until(lambda: answers(url), "the process responds", 120)
    activity = httpx.get(url + ACTIVITY, headers={"Authorization": f"Bearer {key}"}).json()["data"]
    assert len(activity) == 100
    readers = Readers(url, key, activity)
    with readers.reading():
        for killed in range(3):
            before = readers.answers
            wait_until(lambda before=before: readers.answers > before + 20, "readers get responses", 120)
            member = f"m{killed}"
            pair = [
                event("log_source.added.v1", {"logSourceId": member}),
                event("repo.connected.v1", {"repoId": member}),
            ]
            append(runtime, *pair)
            made += pair
            run(
                Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=2)),
                Lease(runtime.queue.connection, TENANT_PARTITION),
                budget_s=15,
            )
            errors = readers.errors
            api.kill()
            wait_until(lambda errors=errors: readers.errors > errors, "readers notice that the API died", 120)
            api = start("tests.support.override_constants", "api", json.dumps(PATIENT_API), PORT=port)
        before = readers.answers
        wait_until(lambda: readers.answers > before + 20, "the last API responds", 120)
    assert readers.wrong == []
    assert_fully_projected(runtime, made)
    api.terminate()
    assert api.wait(30) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_append_killed_in_the_middle_of_its_file_is_completed_by_a_second_one_and_each_event_counts_once(
    runtime: Runtime, start: Start, tmp_path: Path
) -> None:
    made = [event("project.created.v1"), *(event() for _ in range(LINES - 1))]
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(map(body, made)))
    first = start("cli", "append", str(file))
    wait_until(lambda: appended(runtime) > 0, "the rebuild has started", 120)
    first.kill()
    first.wait()
    before = appended(runtime)
    assert 0 < before < LINES
    drain_all(runtime)
    assert start("cli", "append", str(file)).wait(120) == 0
    drain_all(runtime)
    assert assert_fully_projected(runtime, made)["duplicates"] == before


def appended(runtime: Runtime) -> int:
    return runtime.stream.ends()[TENANT_PARTITION].added
