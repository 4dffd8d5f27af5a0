"""Worker processes: out of memory, killed, paused, ended, several at once; and what they leave in Redis."""

import json
import signal
import time
from typing import Any

import pytest
from rq.worker_registration import clean_worker_registry

from event_stream.events.event import partition_of
from tests.support.events import TENANT, event, mixed
from tests.support.harness import append, append_raw, checkpoints, stored_dead_letters, totals
from tests.support.invariants import assert_fully_projected
from tests.support.processes import Start
from tests.support.servers import RedisServer, wait_until
from workers.dispatch.dispatcher import HEARTBEATS_KEY
from workers.reporting.heartbeats import read_workers
from workers.runtime import Runtime, redis_client

TENANT_PARTITION = partition_of(TENANT, 4)
LARGE = b"x" * 1_000_000  # a larger entry is not held as a whole
# Enough for a few large entries, as they are read, hashed and kept; not for a first batch of many.
LITTLE_MIB = "8"


def append_large(runtime: Runtime, count: int) -> list[dict[str, Any]]:
    """Append `count` entries that are too large for an event, with a few events before and after them."""
    made = [event("project.created.v1"), *(event() for _ in range(20))]
    append(runtime, *made[:2])
    for _ in range(count):
        append_raw(runtime, TENANT_PARTITION, LARGE)
    append(runtime, *made[2:])
    return made


def is_drained(runtime: Runtime) -> bool:
    ends = zip(checkpoints(runtime), runtime.stream.ends(), strict=True)
    return all(end.position in (None, at.position) for at, end in ends)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_runs_out_of_memory_reads_smaller_batches_and_finishes(
    runtime: Runtime, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    made = append_large(runtime, 40)
    start("cli", "dispatcher")
    worker = start("tests.support.memory_limited_worker", LITTLE_MIB)
    wait_until(lambda: is_drained(runtime), "everything is drained", 180)
    assert worker.poll() is None
    failures = [line for line in capfd.readouterr().err.splitlines() if "MemoryError" in line]
    assert failures
    assert {json.loads(line)["retry_after_s"] for line in failures} == {0}  # smaller batches may help at once
    assert_fully_projected(runtime, made)
    assert [(dead_letter.reason, dead_letter.times_seen) for dead_letter in stored_dead_letters(runtime)] == [
        ("too_large", 40)
    ]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_killed_for_its_memory_is_replaced_by_one_that_reads_smaller_batches(
    runtime: Runtime, start: Start
) -> None:
    made = append_large(runtime, 40)
    start("cli", "dispatcher")
    deaths = 0
    worker = start("tests.support.memory_limited_worker", LITTLE_MIB, "killed")

    def goes_on() -> bool:
        nonlocal worker, deaths
        if worker.poll() == -signal.SIGKILL:
            deaths += 1
            worker = start("tests.support.memory_limited_worker", LITTLE_MIB, "killed")
        return is_drained(runtime)

    wait_until(goes_on, "everything is drained", 180)
    assert deaths > 0
    assert_fully_projected(runtime, made)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_after_a_kill_by_larger_entries_batches_grow_slowly_so_that_few_kills_follow(
    runtime: Runtime, start: Start
) -> None:
    """A worker that grew as at first would apply 65 entries in each of its lives."""
    large = [event(data={**event()["data"], "ignored": "x" * 60_000}) for _ in range(700)]
    made = [event("project.created.v1"), *large]
    append(runtime, *made)
    start("cli", "dispatcher")
    deaths = 0
    worker = start("tests.support.memory_limited_worker", "36", "killed")

    def goes_on() -> bool:
        nonlocal worker, deaths
        if worker.poll() == -signal.SIGKILL:
            deaths += 1
            worker = start("tests.support.memory_limited_worker", "36", "killed")
        return is_drained(runtime)

    wait_until(goes_on, "everything is drained", 180)
    assert 0 < deaths < 7
    assert_fully_projected(runtime, made)


def test_four_workers_on_two_partitions_count_each_event_once_though_two_of_them_are_killed_and_paused(
    runtime: Runtime, start: Start
) -> None:
    tenants = [f"t{number}" for number in range(40) if partition_of(f"t{number}", 4) in {0, 1}]
    made = [each | {"tenantid": tenants[number % len(tenants)]} for number, each in enumerate(mixed(6000, tenants=1))]
    start("cli", "dispatcher")
    workers = [start("cli", "worker") for _ in range(4)]
    wait_until(lambda: len(read_workers(runtime)) == 4, "all workers wait for jobs", 120)
    append(runtime, *made[:3000])
    wait_until(lambda: totals(runtime)["read"] > 0, "the workers work", 120)
    workers[0].kill()
    workers[1].send_signal(signal.SIGSTOP)
    append(runtime, *made[3000:], *made[:100])
    if runtime.writer.dialect.name == "sqlite":
        # It may hold SQLite's lock. Then other drains continue only after it ends or resumes.
        workers[1].send_signal(signal.SIGCONT)
    wait_until(lambda: is_drained(runtime), "everything is drained", 120)
    workers[1].send_signal(signal.SIGCONT)
    for worker in workers[1:]:
        worker.terminate()
        assert worker.wait(60) == 0
    assert assert_fully_projected(runtime, made)["duplicates"] == 100


def test_sigterm_ends_a_worker_in_the_middle_of_a_backlog_between_two_transactions(
    runtime: Runtime, start: Start
) -> None:
    """The backlog of one partition may be drained by then; the others have not been started."""
    tenants = [next(t for t in map(str, range(100)) if partition_of(t, 4) == partition) for partition in range(4)]
    made = [event(tenantid=tenant) for tenant in tenants for _ in range(10_000)]
    append(runtime, *made)
    dispatcher, worker = start("cli", "dispatcher"), start("cli", "worker")
    wait_until(lambda: totals(runtime)["read"] > 0, "the process works", 120)
    started = time.monotonic()
    worker.terminate()
    assert worker.wait(60) == 0
    assert time.monotonic() - started < 50
    counted = totals(runtime)
    assert 0 < counted["read"] < len(made)
    assert counted["read"] == counted["applied"]
    start("cli", "worker")
    wait_until(lambda: is_drained(runtime), "the next drain continues", 120)
    dispatcher.terminate()
    assert dispatcher.wait(30) == 0
    assert_fully_projected(runtime, made)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_sigterm_ends_an_idle_worker(runtime: Runtime, start: Start) -> None:
    worker = start("cli", "worker")
    wait_until(lambda: [each.state for each in read_workers(runtime)] == ["idle"], "the worker waits for jobs", 120)
    started = time.monotonic()
    worker.terminate()
    assert worker.wait(60) == 0
    assert time.monotonic() - started < 50
    assert read_workers(runtime) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_everything_that_killed_workers_leave_in_redis_expires(runtime: Runtime, start: Start) -> None:
    connection: Any = runtime.queue.connection
    dispatcher = start("cli", "dispatcher")
    made: list[dict[str, Any]] = []
    for killed in range(3):
        worker = start("cli", "worker")
        wait_until(lambda killed=killed: len(read_workers(runtime)) == killed + 1, "the process listens", 120)
        read = totals(runtime)["read"]
        many = [event() for _ in range(10_000)]
        append(runtime, *many)
        made += many
        wait_until(lambda read=read: totals(runtime)["read"] > read, "the process works", 120)
        worker.kill()
    dispatcher.terminate()
    assert dispatcher.wait(30) == 0
    left = runtime.queue.started_job_registry.get_job_ids(cleanup=False)
    assert len(left) > 0
    hours_later = time.time() + 7200
    runtime.queue.started_job_registry.cleanup(hours_later)
    runtime.queue.failed_job_registry.cleanup(hours_later)
    for key in connection.keys("rq:*"):
        if connection.ttl(key) > 0:
            connection.delete(key)  # they expire
    clean_worker_registry(runtime.queue)
    queued = {f"rq:job:{job_id}".encode() for job_id in runtime.queue.get_job_ids()}
    assert set(connection.keys("rq:*")) - queued <= {b"rq:queues", b"rq:queue:projector"}
    start("cli", "worker")
    start("cli", "dispatcher")
    wait_until(lambda: is_drained(runtime), "the next drain continues", 120)
    assert_fully_projected(runtime, made)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_worker_that_ends_after_an_error_of_redis_does_not_end_with_0(
    runtime: Runtime, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    # RQ ends after any error while it waits for jobs, such as those of a failover. This one lasts.
    runtime.queue.connection.set(runtime.queue.key, "not a list")
    assert start("cli", "worker").wait(60) == 1
    shown = capfd.readouterr().err
    assert "WRONGTYPE" in shown
    assert shown.strip().splitlines()[-1].startswith("projector: the worker ended after an error")
    assert read_workers(runtime) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("command", ["worker", "dispatcher"])
def test_a_process_that_is_asked_to_stop_while_redis_is_away_ends_with_0(
    runtime: Runtime, start: Start, command: str
) -> None:
    server = RedisServer()
    server.start()
    try:
        process = start("cli", command, REDIS_URL=server.url)
        with redis_client(server.url) as client:
            wait_until(lambda: client.exists(HEARTBEATS_KEY) or _is_a_worker_idle(client), "the process works")
        assert server.process is not None
        server.process.send_signal(signal.SIGSTOP)  # from now on the process cannot sign off
        process.terminate()
        server.kill()
        assert process.wait(60) == 0
    finally:
        server.remove()


def _is_a_worker_idle(client: Any) -> bool:
    """Return whether a worker waits for jobs; before that, it does not handle signals."""
    return any(client.hget(key, "state") == b"idle" for key in client.scan_iter("rq:worker:*"))
