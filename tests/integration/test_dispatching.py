"""The dispatcher, leases, jobs that can only drain, trimming, and plain RQ workers."""

import io
import os
import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rq import Queue, SimpleWorker
from rq.job import Job
from rq.serializers import JSONSerializer
from sqlalchemy import create_engine

from cli.rendering.status_screen import StatusScreen
from event_stream.events.event import partition_of
from event_stream.streams.entries import Position
from event_stream.streams.stream import ProjectedPosition, Stream
from projections.error_classes import ErrorClass
from projections.transaction import checkpoint_table
from tests.support.events import TENANT, body, event
from tests.support.harness import append, append_raw, checkpoints, drain_all, totals
from tests.support.servers import wait_until
from workers.dispatch import dispatcher as dispatching
from workers.dispatch import rq_worker as working_worker
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import DrainWorker, create_worker
from workers.dispatch.trimmer import Trimmer
from workers.drain.batch_size import BatchSize
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.jobs.queue import DRAIN, DrainJob, enqueue_drain, is_verify_job
from workers.maintenance import verify_jobs
from workers.reporting import problems
from workers.reporting.overview import read_overview
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime, process_runtime
from workers.telemetry.batch_metrics import CommittedBatch
from workers.telemetry.progress import record_batch

TENANT_PARTITION = partition_of(TENANT, 4)
# As docs/how-to/deploy.md#a-plain-rq-worker gives them.
DOCUMENTED_FLAGS = (
    *("--serializer", "json", "--job-class", "workers.jobs.queue.DrainJob"),
    *("--worker-class", "workers.dispatch.rq_worker.DrainWorker", "--worker-ttl", "20"),
)


@pytest.fixture
def as_process(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """Let jobs in this process use the test's runtime."""
    monkeypatch.setattr("workers.drain.drainer.process_runtime", lambda: runtime)
    return runtime


def environ_of(runtime: Runtime, database_url: str, redis_url: str) -> dict[str, str]:
    return os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "PROJECTOR_PARTITIONS": "4",
    }


def test_a_sweep_enqueues_one_drain_for_each_partition_with_lag(runtime: Runtime) -> None:
    append(runtime, event(), event())
    _, lagging = Dispatcher(runtime).sweep()
    assert lagging == [TENANT_PARTITION]
    assert runtime.queue.count == 1
    Dispatcher(runtime).sweep()
    assert runtime.queue.count == 1


def test_a_sweep_over_idle_streams_enqueues_nothing(runtime: Runtime) -> None:
    append(runtime, event())
    drain_all(runtime)
    assert Dispatcher(runtime).sweep()[1] == []
    assert runtime.queue.count == 0


def test_between_sweeps_a_drain_is_enqueued_as_soon_as_a_stream_grows(runtime: Runtime) -> None:
    dispatcher = Dispatcher(runtime)
    ends, _ = dispatcher.sweep()
    listening = threading.Thread(target=dispatcher._listen, args=(dict(enumerate(ends)), 60.0))
    began = time.monotonic()
    listening.start()
    append(runtime, event())
    wait_until(lambda: runtime.queue.count == 1, "the first drain is enqueued")
    listening.join()
    assert time.monotonic() - began < 30  # the next sweep comes soon
    quiet = {partition: end for partition, end in enumerate(ends) if partition != TENANT_PARTITION}
    listening = threading.Thread(target=dispatcher._listen, args=(quiet, 1.0))
    listening.start()
    append_raw(runtime, (TENANT_PARTITION + 1) % 4, b"for another dispatcher")
    wait_until(lambda: runtime.queue.count == 2, "the next drain is enqueued while the first job runs")
    append_raw(runtime, TENANT_PARTITION, b"more")
    listening.join()
    assert runtime.queue.count == 2


def test_a_worker_sends_heartbeats_at_most_once_per_interval(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    working = create_worker(runtime)
    working.register_birth()  # type: ignore[no-untyped-call]
    working.heartbeat()
    runtime.queue.connection.delete(working.key)
    working.heartbeat()
    assert not runtime.queue.connection.exists(working.key)
    monkeypatch.setattr(working_worker, "HEARTBEAT_EVERY_S", 0.0)
    working.heartbeat()
    assert runtime.queue.connection.exists(working.key)


def test_a_sweep_enqueues_a_drain_for_a_stream_that_ends_before_its_checkpoint(runtime: Runtime) -> None:
    (appended,) = append(runtime, event())
    drain_all(runtime)
    runtime.stream.redis.delete(f"events:{{{TENANT_PARTITION}}}")
    older = f"{appended.position.ms - 1000}-0"
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": body(event())}, id=older)
    assert Dispatcher(runtime).sweep()[1] == [TENANT_PARTITION]
    runtime.queue.connection.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")
    drain_all(runtime)
    assert totals(runtime)["applied"] == 2
    assert Dispatcher(runtime).sweep()[1] == []


def test_a_lost_job_is_enqueued_again_when_its_lease_expires(runtime: Runtime) -> None:
    append(runtime, event())
    Dispatcher(runtime).sweep()
    runtime.queue.connection.delete(runtime.queue.key)
    runtime.queue.connection.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")
    Dispatcher(runtime).sweep()
    assert runtime.queue.count == 1


def test_the_queue_is_bounded_while_no_worker_runs(runtime: Runtime) -> None:
    append(runtime, event())
    for _ in range(30):
        Dispatcher(runtime).sweep()
        runtime.queue.connection.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")
    assert runtime.queue.count == 2 * 4


def test_an_enqueued_job_drains_and_leaves_nothing_in_redis(as_process: Runtime) -> None:
    append(as_process, event(), event())
    Dispatcher(as_process).sweep()
    create_worker(as_process).work(burst=True, logging_level="WARNING")
    assert totals(as_process)["applied"] == 2
    connection: Any = as_process.queue.connection
    assert connection.keys("rq:job:*") == []
    assert connection.keys("projector:drain-lease:*") == []


def test_a_job_whose_lease_belongs_to_another_returns_at_once(as_process: Runtime) -> None:
    append(as_process, event())
    enqueue_drain(as_process.queue, TENANT_PARTITION, "stale")
    assert Lease(as_process.queue.connection, TENANT_PARTITION).acquire()
    create_worker(as_process).work(burst=True, logging_level="WARNING")
    assert totals(as_process)["read"] == 0


def test_a_job_that_waited_longer_than_its_lease_still_drains(as_process: Runtime) -> None:
    append(as_process, event())
    enqueue_drain(as_process.queue, TENANT_PARTITION, "expired")
    create_worker(as_process).work(burst=True, logging_level="WARNING")
    assert totals(as_process)["applied"] == 1


def test_a_lease_is_extended_and_released_only_with_its_token(runtime: Runtime) -> None:
    mine, other = (Lease(runtime.queue.connection, TENANT_PARTITION) for _ in range(2))
    assert mine.acquire()
    assert not other.acquire()
    assert not other.acquire_or_extend()
    other.release()
    assert not other.acquire()
    assert mine.acquire_or_extend()
    assert mine.extend(0.05)
    time.sleep(0.1)
    assert not mine.extend(5)
    assert other.acquire_or_extend()


class Boom:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, (str(Boom.target),))

    target: Path


@pytest.mark.parametrize("kind", ["function", "pickle", "callback", "garbage"])
def test_a_foreign_job_runs_nothing_and_the_worker_continues(as_process: Runtime, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "owned"
    Boom.target = target
    queue = Queue("projector", connection=as_process.queue.connection, serializer=JSONSerializer)
    append(as_process, event())
    if kind == "function":
        queue.enqueue("os.mkdir", str(target))
    elif kind == "callback":
        job = Job.create(DRAIN, (TENANT_PARTITION, "x"), connection=queue.connection, serializer=JSONSerializer)
        job._success_callback_name = job._failure_callback_name = "os.mkdir"
        job.webhooks = []
        queue.enqueue_job(job)
    else:
        job = Job.create("os.mkdir", (str(target),), connection=queue.connection, serializer=JSONSerializer)
        queue.enqueue_job(job)
        poison = pickle.dumps(Boom()) if kind == "pickle" else b"\x00garbage"
        queue.connection.hset(job.key, mapping={"data": poison, "meta": poison, "result": poison})
    enqueue_drain(as_process.queue, TENANT_PARTITION, Lease(queue.connection, TENANT_PARTITION).token)
    create_worker(as_process).work(burst=True, logging_level="CRITICAL")
    assert not target.exists()
    assert totals(as_process)["applied"] == 1


def test_the_dispatcher_removes_foreign_and_missing_jobs_in_bulk(
    as_process: Runtime, capfd: pytest.CaptureFixture[str]
) -> None:
    queue: Any = as_process.queue
    queue.connection.rpush(queue.key, *(f"unknown-{number}" for number in range(100_000)))
    enqueue_drain(queue, 0, "token")
    enqueue_drain(queue, 1, "token")
    own = queue.get_job_ids()[-2:]
    queue.connection.rpush(queue.key, *(f"drain-{number}" for number in range(100_000)))
    Queue("projector", connection=queue.connection, serializer=JSONSerializer).enqueue("os.getcwd")
    append(as_process, event())
    Dispatcher(as_process).sweep()
    assert queue.get_job_ids()[:2] == own
    assert queue.count == 3
    (line,) = [line for line in capfd.readouterr().out.splitlines() if "foreign_jobs_removed" in line]
    assert "200001" in line
    create_worker(as_process).work(burst=True, logging_level="CRITICAL")
    assert totals(as_process)["applied"] == 1


@pytest.mark.parametrize("hash_", [{}, {"created_at": "x"}, {"status": "queued", "timeout": "x", "data": "x"}])
def test_a_worker_skips_unreadable_jobs_and_sends_heartbeats_meanwhile(
    as_process: Runtime, monkeypatch: pytest.MonkeyPatch, hash_: dict[str, str]
) -> None:
    queue: Any = as_process.queue
    heartbeats: list[object] = []
    heartbeat = DrainWorker.heartbeat

    def counted(*args: Any, **kwargs: Any) -> None:
        heartbeats.append(args)
        heartbeat(*args, **kwargs)

    monkeypatch.setattr(DrainWorker, "heartbeat", counted)
    for number in range(50):
        queue.connection.rpush(queue.key, f"unknown-{number}")
        if hash_:
            queue.connection.hset(f"rq:job:unknown-{number}", mapping=hash_)
    append(as_process, event())
    enqueue_drain(queue, TENANT_PARTITION, Lease(queue.connection, TENANT_PARTITION).token)
    create_worker(as_process).work(burst=True, logging_level="CRITICAL")
    assert totals(as_process)["applied"] == 1
    assert len(heartbeats) > 50
    assert queue.connection.llen(queue.intermediate_queue_key) == 0


def test_the_job_class_refuses_any_other_function(runtime: Runtime) -> None:
    queue = Queue("projector", connection=runtime.queue.connection, serializer=JSONSerializer)
    foreign = queue.enqueue("os.getcwd")
    job = DrainJob.fetch(foreign.id, connection=queue.connection, serializer=JSONSerializer)
    with pytest.raises(Exception, match=r"only workers\.drain\.drainer\.drain_partition, .* run on"):
        job.perform()


def test_trimming_keeps_entries_until_a_minute_after_their_commit(runtime: Runtime) -> None:
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    key = f"events:{{{TENANT_PARTITION}}}"
    length = runtime.stream.redis.xlen
    append(runtime, *(event() for _ in range(500)))
    drain_all(runtime)
    trimmer.update(checkpoints(runtime))
    append(runtime, *(event() for _ in range(500)))
    drain_all(runtime)
    now[0] = 59.0
    trimmer.update(checkpoints(runtime))
    assert length(key) == 1000
    now[0] = 60.0
    trimmer.update(checkpoints(runtime))
    assert length(key) == 1000  # less than five seconds after the last record
    now[0] = 66.0
    trimmer.update(checkpoints(runtime))
    assert 500 < length(key) < 700
    now[0] = 126.0
    trimmer.update(checkpoints(runtime))
    assert 1 <= length(key) < 200
    append(runtime, event())
    drain_all(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 0
    assert totals(runtime) == {"read": 1001, "applied": 1001, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_the_same_trim_is_repeated_once_a_minute_only(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    now, trimmed = [0.0], list[float]()
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    trim = Stream.trim

    def record(*arguments: Any) -> int:
        trimmed.append(now[0])
        return trim(*arguments)

    monkeypatch.setattr(Stream, "trim", record)
    append(runtime, event())
    drain_all(runtime)
    for now[0] in range(0, 200, 10):
        trimmer.update(checkpoints(runtime))
    assert trimmed == [60, 120, 180]


def test_a_replaced_stream_is_not_trimmed_by_the_old_checkpoint(runtime: Runtime) -> None:
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    key = f"events:{{{TENANT_PARTITION}}}"
    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    for now[0] in (0.0, 30.0):
        trimmer.update(checkpoints(runtime))
    runtime.stream.redis.delete(key)
    below = checkpoints(runtime)[TENANT_PARTITION].position.ms - 100_000
    for number in range(300):
        runtime.stream.redis.xadd(key, {"event": body(event())}, id=f"{below + number}-0")
    append(runtime, event())  # its ids are higher than the checkpoint
    now[0] = 100.0
    trimmer.update(checkpoints(runtime))
    assert runtime.stream.redis.xlen(key) == 301
    drain_all(runtime)
    assert totals(runtime)["applied"] == 601


def test_entries_that_a_restored_database_must_read_again_are_not_trimmed(runtime: Runtime) -> None:
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    before = checkpoints(runtime)
    append(runtime, *(event() for _ in range(300)))
    drain_all(runtime)
    trimmer.update(checkpoints(runtime))
    with runtime.writer.begin() as connection:
        checkpoint_table.advance(connection, before[TENANT_PARTITION])
    now[0] = 100.0
    trimmer.update(checkpoints(runtime))
    assert runtime.stream.redis.xlen(f"events:{{{TENANT_PARTITION}}}") < 600
    drain_all(runtime)
    assert totals(runtime) == {"read": 600, "applied": 300, "duplicates": 300, "dead_lettered": 0, "lost": 0}


def test_a_sweep_corrects_the_progress_hint_of_a_drain_that_died(runtime: Runtime) -> None:
    (appended,) = append(runtime, event())
    drain_all(runtime)
    runtime.stream.redis.delete(
        f"events:{{{TENANT_PARTITION}}}:projected", f"events:{{{TENANT_PARTITION}}}:projected-count"
    )
    Dispatcher(runtime).sweep()
    assert runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION] == ProjectedPosition(appended.position, 1)
    runtime.stream.publish_projected(TENANT_PARTITION, ProjectedPosition(Position(1, 1), 7))
    Dispatcher(runtime).sweep()
    assert runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION] == ProjectedPosition(appended.position, 1)


def test_the_dispatcher_enqueues_a_drain_as_soon_as_a_stream_grows(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "IDLE_SWEEP_S", 4.5)
    stopping = threading.Event()
    own = replace(runtime)
    thread = threading.Thread(target=Dispatcher(own).run, args=(stopping.is_set,))
    thread.start()
    wait_until(lambda: runtime.queue.connection.exists("projector:dispatcher-heartbeats"), "the dispatcher swept")
    time.sleep(0.2)
    started = time.monotonic()
    append(runtime, event())
    wait_until(lambda: runtime.queue.count == 1, "the dispatcher enqueues a drain")
    assert time.monotonic() - started < 4
    stopping.set()
    thread.join()


def test_verification_waits_until_drains_have_caught_up_but_not_forever(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatching, "IDLE_SWEEP_S", 0.01)

    def asked_by(dispatcher: Dispatcher) -> bool:
        runtime.queue.connection.delete(verify_jobs.SCHEDULED_KEY)
        runtime.queue.empty()  # type: ignore[no-untyped-call]
        stopped = iter((False, False, True))
        dispatcher.run(lambda: next(stopped))
        return any(map(is_verify_job, runtime.queue.get_job_ids()))

    append(runtime, event())
    dispatcher = Dispatcher(runtime)
    assert not asked_by(dispatcher)
    dispatcher.caught_up_s -= verify_jobs.PASS_INTERVAL_S
    assert asked_by(dispatcher)
    dispatcher.verify_checked_s = float("-inf")
    dispatcher.caught_up_s = time.monotonic()
    assert not asked_by(dispatcher)
    while not Drainer(runtime, TENANT_PARTITION).step():
        pass
    assert asked_by(dispatcher)


def test_status_shows_counters_dead_letters_and_processes(runtime: Runtime) -> None:
    append(runtime, event(), event(), event() | {"type": "unknown.v1"})
    made = event()
    append(runtime, made, made)
    before = read_status(runtime)
    owner = before.partitions[TENANT_PARTITION]
    assert (owner.added, owner.read, owner.in_flight, owner.lag_entries) == (5, 0, 5, 5)
    assert {
        "no dispatcher is alive; start `projector dispatcher`",
        "no worker is alive; start `projector worker`",
    } <= set(problems.all_problems(before))
    drain_all(runtime)
    Dispatcher(runtime).sweep()
    found = read_status(runtime)
    owner = found.partitions[TENANT_PARTITION]
    assert (owner.applied, owner.duplicates, owner.dead_lettered, owner.lost) == (3, 1, 1, 0)
    assert owner.read == owner.applied + owner.duplicates + owner.dead_lettered == 5
    assert owner.added == owner.read + owner.in_flight + owner.lost
    assert (owner.in_flight, owner.lag_s) == (0, 0.0)
    assert found.open_dead_letters == {"unknown_type": 1}
    assert [each.pid for each in found.dispatchers] == [os.getpid()]


def test_status_and_health_show_why_a_partition_fails_until_it_recovers(runtime: Runtime) -> None:
    append(runtime, *(event() for _ in range(100)))
    nowhere = create_engine("postgresql+psycopg://nobody:secret@127.0.0.1:1/none")
    away = Drainer(replace(runtime, writer=nowhere), TENANT_PARTITION, batch_size=BatchSize(count=64))
    pauses = []
    for failures in range(1, 8):
        while away.batch_size.consecutive_failures < failures:
            # Shorter than the first pause, so that each run tries once.
            run(away, Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=0.2)
            runtime.queue.connection.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")
        failure = read_status(runtime).partitions[TENANT_PARTITION].failure
        assert failure is not None
        assert (failure.fault, failure.consecutive_failures, failure.next_batch_entries) == (
            ErrorClass.EXTERNAL,
            failures,
            max(1, 64 >> failures),
        )
        assert failure.error.startswith("OperationalError: connection ")
        assert "secret" not in failure.error
        pauses.append(failure.retry_after_s)
    assert 0.2 <= pauses[0] <= 0.4
    assert 7.5 <= pauses[6] <= 15
    (said,) = [problem for problem in problems.all_problems(read_status(runtime)) if "in a row" in problem]
    assert said == (
        f"partition {TENANT_PARTITION} failed 7 times in a row: OperationalError (a server or this machine is at fault);"
        " it retries by itself, see `projector status`"
    )
    assert "OperationalError" in shown_status(runtime)
    drain_all(runtime)
    assert read_status(runtime).partitions[TENANT_PARTITION].failure is None
    assert totals(runtime)["applied"] == 100


def shown_status(runtime: Runtime) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(StatusScreen(read_overview(runtime)))
    return console.export_text()


def test_a_plain_rq_worker_with_the_documented_flags_drains(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    append(runtime, event(), event())
    Dispatcher(runtime).sweep()
    rq = str(Path(sys.executable).parent / "rq")
    environ = environ_of(runtime, database_url, redis_url)
    subprocess.run(
        [rq, "worker", "--burst", "-u", redis_url, *DOCUMENTED_FLAGS, "projector"], env=environ, check=True, timeout=60
    )
    assert totals(runtime)["applied"] == 2


def test_rq_info_can_read_the_queue(runtime: Runtime, redis_url: str) -> None:
    append(runtime, event())
    Dispatcher(runtime).sweep()
    SimpleWorker([runtime.queue], name="w1", connection=runtime.queue.connection).register_birth()  # type: ignore[no-untyped-call]
    rq = str(Path(sys.executable).parent / "rq")
    shown = subprocess.run([rq, "info", "-u", redis_url], check=True, capture_output=True, text=True, timeout=60)
    assert "projector" in shown.stdout
    assert "1 jobs total" in shown.stdout
    assert "1 workers, 1 queues" in shown.stdout


def test_a_forking_rq_worker_drains_too(runtime: Runtime, database_url: str, redis_url: str) -> None:
    append(runtime, event())
    Dispatcher(runtime).sweep()
    flags = ["--serializer", "json", "--job-class", "workers.jobs.queue.DrainJob"]
    rq = str(Path(sys.executable).parent / "rq")
    environ = environ_of(runtime, database_url, redis_url)
    subprocess.run([rq, "worker", "--burst", "-u", redis_url, *flags, "projector"], env=environ, check=True, timeout=60)
    assert totals(runtime)["applied"] == 1
    assert runtime.queue.connection.keys("rq:job:*") == []  # our own worker deletes results in any case
    assert process_runtime.cache_info().currsize == 0


def test_a_plain_rq_worker_with_wrong_settings_parks_nothing(
    runtime: Runtime, database_url: str, redis_url: str
) -> None:
    append(runtime, event())
    Dispatcher(runtime).sweep()
    environ = environ_of(runtime, database_url, redis_url) | {"PROJECTOR_PARTITIONS": "2"}
    rq = str(Path(sys.executable).parent / "rq")
    done = subprocess.run(
        [rq, "worker", "--burst", "-u", redis_url, *DOCUMENTED_FLAGS, "projector"],
        check=True,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "set PROJECTOR_PARTITIONS=4" in done.stderr + done.stdout
    assert totals(runtime)["read"] == 0


def test_a_partition_with_large_lag_that_moves_is_not_stalled(runtime: Runtime) -> None:
    old = int(time.time() * 1000) - 600_000
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": body(event())}, id=f"{old}-0")
    owner = read_status(runtime).partitions[TENANT_PARTITION]
    assert owner.lag_s > 500
    assert owner.stalled
    record_batch(
        runtime.queue.connection, TENANT_PARTITION, CommittedBatch(entries=1, dead_lettered={}, batch_us=2, commit_us=1)
    )
    assert not read_status(runtime).partitions[TENANT_PARTITION].stalled


def test_the_dispatcher_publishes_the_number_of_partitions_again(runtime: Runtime) -> None:
    runtime.stream.redis.flushall()
    Dispatcher(runtime).sweep()
    assert runtime.stream.redis.get("events:partitions") == b"4"
