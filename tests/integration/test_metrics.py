"""What /metrics tells: the same as `status`, nothing of tenants, and never half a truth while a server is away."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import ResponseError
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from event_stream.envelope import Reason
from event_stream.event_types import partition_of
from event_stream.stream import Stream
from monitoring import scrape as scraping
from monitoring.metrics import MEASURES, OBSERVED, OWN, RECORDED, STATUS, TALLY, Measure
from projections.database.engines import reader_engine
from projections.error_classes import ErrorClass
from projections.read_models.registry import PROJECTIONS
from tests.support.driving import append, append_raw, drain_all, totals
from tests.support.events import PROJECT, TENANT, body, event
from tests.support.proxy import Proxy
from tests.support.scraping import Scraped, scrape
from tests.support.servers import PostgresServer, RedisServer
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import worker
from workers.drain import circuit_breaker
from workers.drain.drainer import Drainer
from workers.jobs.queue import drain_queue, enqueue_drain
from workers.reporting.status import read_status
from workers.runtime import Runtime, redis_client
from workers.telemetry.batch_metrics import (
    BATCH_ENTRIES,
    KEY,
    BatchMetrics,
    CommittedBatch,
    count_committed,
    read_batch_metrics,
)
from workers.telemetry.progress import STALLED_AFTER_S, Failure, note_failure

HOME = partition_of(TENANT, 4)


def names(*groups: Sequence[Measure[Any]]) -> set[str]:
    return {measure.name for group in groups for measure in group}


def families(scraped: Scraped) -> set[str]:
    """Return which metrics of the table a scrape tells."""
    return {name for name in names(MEASURES) if {name, f"{name}_bucket"} & scraped.names()}


def load(runtime: Runtime) -> None:
    """Append what becomes each of applied, duplicate, parked and lost."""
    made = event()
    conflict = event("project.created.v1") | {"id": made["id"]}
    append(runtime, event("project.created.v1"), made, made, conflict, event(), event() | {"type": "unknown.v1"})
    append_raw(runtime, HOME, b"nonsense", b"other nonsense")
    drain_all(runtime)
    (doomed,) = append(runtime, event())
    runtime.stream.redis.xdel(f"events:{{{HOME}}}", str(doomed.position))
    drain_all(runtime)


def test_a_scrape_tells_what_status_tells(runtime: Runtime) -> None:
    load(runtime)
    append(runtime, event(), event())
    enqueue_drain(runtime.queue, HOME, "token")
    Dispatcher(runtime)._beat()
    worker(runtime).register_birth()  # type: ignore[no-untyped-call]
    told, status = scrape(runtime), read_status(runtime)
    assert families(told) == names(MEASURES) - names(OWN) | {
        "projector_api_connections_in_use",
        "projector_api_connections_open",
    }
    assert (told("projector_up", server="redis"), told("projector_up", server="database")) == (1, 1)
    for each in status.partitions:
        partition = str(each.partition)
        assert told("projector_lag_entries", partition=partition) == each.lag_entries
        assert told("projector_entries_applied_total", partition=partition) == each.applied
        assert told("projector_entries_duplicate_total", partition=partition) == each.duplicates
        assert told("projector_entries_dead_lettered_total", partition=partition) == each.dead_lettered
        assert told("projector_entries_lost_total", partition=partition) == each.lost
    home = status.partitions[HOME]
    assert (home.applied, home.duplicates, home.dead_lettered, home.lost, home.lag_entries) == (3, 1, 4, 1, 2)
    assert 0 < told("projector_lag_seconds", partition=str(HOME)) <= read_status(runtime).partitions[HOME].lag_s
    parked = {reason.value: told("projector_dead_letters_total", reason=reason.value) for reason in Reason}
    opened = {reason.value: told("projector_dead_letters_open", reason=reason.value) for reason in Reason}
    assert {reason: count for reason, count in parked.items() if count} == status.open_dead_letters
    assert {reason: count for reason, count in opened.items() if count} == status.open_dead_letters
    assert status.open_dead_letters == {"id_conflict": 1, "not_json": 2, "unknown_type": 1}
    assert told("projector_processes", role="worker", state="alive") == 1
    assert told("projector_processes", role="dispatcher", state="alive") == 1
    assert told("projector_processes", role="dispatcher", state="stalled") == 0
    assert 0 <= told("projector_heartbeat_age_seconds", role="dispatcher") < STALLED_AFTER_S
    assert (told("projector_queue_length"), told("projector_breaker_open")) == (1, 0)
    assert told("projector_api_connections_open") >= told("projector_api_connections_in_use") == 0


def test_every_batch_is_counted_by_its_size_and_its_times(runtime: Runtime) -> None:
    append(runtime, *(event() for _ in range(100)))
    drainer = Drainer(runtime, HOME)
    batches = 1
    while not drainer.step():
        batches += 1
    told = scrape(runtime)
    assert batches > 2
    for name in ("projector_batch_entries", "projector_batch_seconds", "projector_commit_seconds"):
        assert told(f"{name}_count") == told(f"{name}_bucket", le="+Inf") == batches
    assert told("projector_batch_entries_sum") == 100 == totals(runtime)["read"]
    assert told("projector_batch_entries_bucket", le="1.0") == 1  # the first batch of a process holds one entry
    assert 0 < told("projector_commit_seconds_sum") < told("projector_batch_seconds_sum")


def test_a_number_falls_into_the_bucket_of_the_first_bound_that_it_does_not_pass(runtime: Runtime) -> None:
    redis = runtime.queue.connection
    for entries in (1, 3, 8_000, 8_001):
        count_committed(redis, CommittedBatch(entries, {}, batch_us=1, commit_us=1))
    counted = read_batch_metrics(redis).batch_entries
    found = {bucket: count for bucket, count in zip(BATCH_ENTRIES.buckets, counted.counts, strict=True) if count}
    assert found == {"1": 1, "5": 1, "8000": 1, "+Inf": 1}
    assert counted.sum == 16_005


def test_what_fails_and_who_is_silent_is_told(runtime: Runtime) -> None:
    redis = runtime.queue.connection
    failure = Failure(
        fault=ErrorClass.EXTERNAL, error="x", consecutive_failures=4, next_batch_entries=1, retry_after_s=1.0
    )
    note_failure(redis, HOME, failure)
    note_failure(redis, HOME, failure)
    circuit_breaker.publish(redis, "KeyError")
    long_ago_ms = runtime.stream.now_ms() - 60_000
    redis.zadd("projector:dispatcher-heartbeats", {"host.1": long_ago_ms, "host.2": long_ago_ms + 59_000})
    runtime.stream.redis.xadd(f"events:{{{HOME}}}", {"event": body(event())}, id=f"{long_ago_ms}-0")
    told = scrape(runtime)
    assert told("projector_partition_consecutive_failures", partition=str(HOME)) == 4
    assert told("projector_partition_stalled", partition=str(HOME)) == 1
    assert told("projector_partition_stalled", partition=str((HOME + 1) % 4)) == 0
    assert told("projector_batches_failed_total", fault="external") == 2
    assert told("projector_breaker_open") == 1
    assert told("projector_processes", role="dispatcher", state="stalled") == 1
    assert told("projector_processes", role="worker", state="alive") == 0
    assert told("projector_heartbeat_age_seconds", role="dispatcher") >= 60
    assert ("projector_heartbeat_age_seconds", frozenset({("role", "worker")})) not in told.samples


def test_a_scrape_tells_nothing_of_tenants_and_its_labels_have_few_values(runtime: Runtime) -> None:
    load(runtime)
    told = scrape(runtime)
    for secret in (TENANT, PROJECT, "checkout", "nonsense", runtime.reader.url.database or "?"):
        assert secret not in told.text
    few = {
        "partition": {"0", "1", "2", "3"},
        "reason": {reason.value for reason in Reason},
        "fault": {"internal", "external"},
        "role": {"worker", "dispatcher"},
        "state": {"alive", "stalled"},
        "server": {"redis", "database"},
        "projection": {projection.name for projection in PROJECTIONS},
        "lookup": set(),
    }
    for name in told.names():
        for label, values in told.labels(name).items():
            assert label == "le" or values <= few[label], name


def test_while_redis_is_away_the_rest_is_told_and_what_would_be_half_is_not(runtime: Runtime) -> None:
    load(runtime)
    nowhere = redis_client("redis://127.0.0.1:1/0", 1.0, retries=0)
    told = scrape(replace(runtime, stream=Stream(nowhere, 4), queue=drain_queue(nowhere)))
    assert (told("projector_up", server="redis"), told("projector_up", server="database")) == (0, 1)
    assert told("projector_entries_applied_total", partition=str(HOME)) == 3
    assert told("projector_dead_letters_open", reason="not_json") == 2
    assert not families(told) & names(STATUS, OBSERVED, TALLY)
    assert told("projector_api_connections_open") >= told("projector_api_connections_in_use") == 0


def test_while_the_database_is_away_the_rest_is_told_and_what_would_be_half_is_not(runtime: Runtime) -> None:
    load(runtime)
    nowhere = create_engine("postgresql+psycopg://nobody:secret@127.0.0.1:1/none", poolclass=QueuePool, pool_size=2)
    told = scrape(replace(runtime, reader=nowhere))
    assert (told("projector_up", server="redis"), told("projector_up", server="database")) == (1, 0)
    assert told("projector_dead_letters_total", reason="not_json") == 2
    assert told("projector_processes", role="worker", state="alive") == 0
    assert not families(told) & names(RECORDED, STATUS)


def test_a_reading_that_breaks_off_in_the_middle_tells_nothing_of_its_server(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(_redis: object) -> BatchMetrics:
        raise ResponseError("LOADING")

    monkeypatch.setattr(scraping, "read_tally", breaks_off)
    told = scrape(runtime)
    assert told("projector_up", server="redis") == 0
    assert not families(told) & names(STATUS, OBSERVED, TALLY)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Proxy]]:
    """Proxies that let nothing through; in the end everything, for what still waits."""
    monkeypatch.setattr(scraping, "HALF_WITHIN_S", 3.0)
    proxies: list[Proxy] = []
    yield proxies
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_silent_redis_keeps_no_scrape_waiting(
    runtime: Runtime, redis_server: RedisServer, silent: list[Proxy]
) -> None:
    load(runtime)
    silent.append(proxy := Proxy(redis_server.port))
    proxy.partition()
    mute = redis_client(f"redis://127.0.0.1:{proxy.port}/0", 20.0)
    told = scrape(replace(runtime, stream=Stream(mute, 4), queue=drain_queue(mute)))
    assert (told("projector_up", server="redis"), told("projector_up", server="database")) == (0, 1)
    assert not families(told) & names(STATUS, OBSERVED, TALLY)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_silent_database_keeps_no_scrape_waiting(
    runtime: Runtime, database_url: str, postgres_server: PostgresServer, silent: list[Proxy]
) -> None:
    silent.append(proxy := Proxy(postgres_server.port))
    reader = reader_engine(database_url.replace(str(postgres_server.port), str(proxy.port)))
    through = replace(runtime, reader=reader)
    assert scrape(through)("projector_up", server="database") == 1
    proxy.partition()
    told = scrape(through)
    assert (told("projector_up", server="redis"), told("projector_up", server="database")) == (1, 0)
    assert not families(told) & names(RECORDED, STATUS)
    proxy.close()
    reader.dispose()


def test_a_tally_that_redis_forgot_begins_again(runtime: Runtime) -> None:
    load(runtime)
    runtime.queue.connection.delete(KEY)
    append(runtime, event())
    drain_all(runtime)
    told = scrape(runtime)
    assert told("projector_batch_entries_sum") == 1
    assert told("projector_entries_applied_total", partition=str(HOME)) == 4
