"""/metrics reports the same values as `status`, names no tenant, and leaves out partial values while a server is down."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError
from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from event_stream.errors import Reason
from event_stream.events.event import partition_of
from event_stream.streams.stream import Stream
from monitoring import scrape as scraping
from monitoring.catalogue import (
    FROM_API_PROCESS,
    FROM_BATCH_METRICS,
    FROM_BOTH_SERVERS,
    FROM_DATABASE,
    FROM_REDIS,
    METRICS,
)
from monitoring.definition import MetricDefinition
from projections.database.engines import reader_engine
from projections.error_classes import ErrorClass
from projections.read_models.registry import PROJECTIONS
from tests.support.events import PROJECT, TENANT, body, event
from tests.support.harness import append, append_raw, drain_all, totals
from tests.support.metrics_scrape import Scraped, scrape
from tests.support.proxy import Proxy
from tests.support.servers import PostgresServer, RedisServer
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.drain import circuit_breaker
from workers.drain.drainer import Drainer
from workers.jobs.queue import drain_queue, enqueue_drain
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime, redis_client
from workers.telemetry.batch_metrics import (
    BATCH_ENTRIES,
    KEY,
    BatchMetrics,
    CommittedBatch,
    count_committed,
    read_batch_metrics,
)
from workers.telemetry.progress import STALLED_AFTER_S, BatchFailure, record_failure

TENANT_PARTITION = partition_of(TENANT, 4)


def names(*groups: Sequence[MetricDefinition[Any]]) -> set[str]:
    return {measure.name for group in groups for measure in group}


def families(scraped: Scraped) -> set[str]:
    """Return the metrics of the table that a scrape contains."""
    return {name for name in names(METRICS) if {name, f"{name}_bucket"} & scraped.names()}


def load(runtime: Runtime) -> None:
    """Append entries that become applied, duplicate, parked and lost."""
    made = event()
    conflict = event("project.created.v1") | {"id": made["id"]}
    append(runtime, event("project.created.v1"), made, made, conflict, event(), event() | {"type": "unknown.v1"})
    append_raw(runtime, TENANT_PARTITION, b"nonsense", b"other nonsense")
    drain_all(runtime)
    (doomed,) = append(runtime, event())
    runtime.stream.redis.xdel(f"events:{{{TENANT_PARTITION}}}", str(doomed.position))
    drain_all(runtime)


def test_a_scrape_reports_the_same_values_as_status(runtime: Runtime) -> None:
    load(runtime)
    append(runtime, event(), event())
    enqueue_drain(runtime.queue, TENANT_PARTITION, "token")
    Dispatcher(runtime)._send_heartbeat([])
    create_worker(runtime).register_birth()  # type: ignore[no-untyped-call]
    scraped, status = scrape(runtime), read_status(runtime)
    no_source = {"projector_dead_letter_source_entries"}  # has samples only for sources of more than 100 dead letters
    assert families(scraped) == names(METRICS) - names(FROM_API_PROCESS) - no_source | {
        "projector_api_connections_in_use",
        "projector_api_connections_open",
        "projector_api_log_lines_dropped_total",
    }
    assert (scraped("projector_up", server="redis"), scraped("projector_up", server="database")) == (1, 1)
    for each in status.partitions:
        partition = str(each.partition)
        assert scraped("projector_lag_entries", partition=partition) == each.lag_entries
        assert scraped("projector_entries_applied_total", partition=partition) == each.applied
        assert scraped("projector_entries_duplicate_total", partition=partition) == each.duplicates
        assert scraped("projector_entries_dead_lettered_total", partition=partition) == each.dead_lettered
        assert scraped("projector_entries_lost_total", partition=partition) == each.lost
    owner = status.partitions[TENANT_PARTITION]
    assert (owner.applied, owner.duplicates, owner.dead_lettered, owner.lost, owner.lag_entries) == (3, 1, 4, 1, 2)
    assert (
        0
        < scraped("projector_lag_seconds", partition=str(TENANT_PARTITION))
        <= read_status(runtime).partitions[TENANT_PARTITION].lag_s
    )
    parked = {reason.value: scraped("projector_dead_letters_total", reason=reason.value) for reason in Reason}
    opened = {reason.value: scraped("projector_dead_letters_open", reason=reason.value) for reason in Reason}
    assert {reason: count for reason, count in parked.items() if count} == status.open_dead_letters
    assert {reason: count for reason, count in opened.items() if count} == status.open_dead_letters
    assert status.open_dead_letters == {"id_conflict": 1, "not_json": 2, "unknown_type": 1}
    assert scraped("projector_processes", role="worker", state="alive") == 1
    assert scraped("projector_processes", role="dispatcher", state="alive") == 1
    assert scraped("projector_processes", role="dispatcher", state="stalled") == 0
    assert 0 <= scraped("projector_heartbeat_age_seconds", role="dispatcher") < STALLED_AFTER_S
    assert (scraped("projector_queue_length"), scraped("projector_breaker_open")) == (1, 0)
    assert scraped("projector_api_connections_open") >= scraped("projector_api_connections_in_use") == 0


def test_every_batch_is_counted_by_its_size_and_its_times(runtime: Runtime) -> None:
    append(runtime, *(event() for _ in range(100)))
    drainer = Drainer(runtime, TENANT_PARTITION)
    batches = 1
    while not drainer.step():
        batches += 1
    scraped = scrape(runtime)
    assert batches > 2
    for name in ("projector_batch_entries", "projector_batch_seconds", "projector_commit_seconds"):
        assert scraped(f"{name}_count") == scraped(f"{name}_bucket", le="+Inf") == batches
    assert scraped("projector_batch_entries_sum") == 100 == totals(runtime)["read"]
    assert scraped("projector_batch_entries_bucket", le="1.0") == 1  # the first batch of a process has one entry
    assert 0 < scraped("projector_commit_seconds_sum") < scraped("projector_batch_seconds_sum")


def test_a_value_counts_in_the_first_bucket_whose_bound_it_does_not_exceed(runtime: Runtime) -> None:
    redis = runtime.queue.connection
    for entries in (1, 3, 8_000, 8_001):
        count_committed(redis, CommittedBatch(entries, {}, batch_us=1, commit_us=1))
    counted = read_batch_metrics(redis).batch_entries
    found = {bucket: count for bucket, count in zip(BATCH_ENTRIES.names, counted.counts, strict=True) if count}
    assert found == {"1": 1, "5": 1, "8000": 1, "+Inf": 1}
    assert counted.sum == 16_005


def test_failures_and_silent_processes_are_reported(runtime: Runtime) -> None:
    redis = runtime.queue.connection
    failure = BatchFailure(
        fault=ErrorClass.EXTERNAL, error="x", consecutive_failures=4, next_batch_entries=1, retry_after_s=1.0
    )
    record_failure(redis, TENANT_PARTITION, failure)
    record_failure(redis, TENANT_PARTITION, failure)
    circuit_breaker.publish(redis, "KeyError")
    long_ago_ms = runtime.stream.now_ms() - 60_000
    redis.zadd("projector:dispatcher-heartbeats", {"host.1.a": long_ago_ms, "host.2.b": long_ago_ms + 59_000})
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"event": body(event())}, id=f"{long_ago_ms}-0")
    scraped = scrape(runtime)
    assert scraped("projector_partition_consecutive_failures", partition=str(TENANT_PARTITION)) == 4
    assert scraped("projector_partition_stalled", partition=str(TENANT_PARTITION)) == 1
    assert scraped("projector_partition_stalled", partition=str((TENANT_PARTITION + 1) % 4)) == 0
    assert scraped("projector_batches_failed_total", fault="external") == 2
    assert scraped("projector_breaker_open") == 1
    assert scraped("projector_processes", role="dispatcher", state="stalled") == 1
    assert scraped("projector_processes", role="worker", state="alive") == 0
    assert scraped("projector_heartbeat_age_seconds", role="dispatcher") >= 60
    assert ("projector_heartbeat_age_seconds", frozenset({("role", "worker")})) not in scraped.samples


def test_a_scrape_names_no_tenant_and_its_labels_have_few_values(runtime: Runtime) -> None:
    load(runtime)
    scraped = scrape(runtime)
    for secret in (TENANT, PROJECT, "checkout", "nonsense", runtime.reader.url.database or "?"):
        assert secret not in scraped.text
    few = {
        "partition": {"0", "1", "2", "3"},
        "reason": {reason.value for reason in Reason},
        "fault": {"internal", "external"},
        "role": {"worker", "dispatcher"},
        "state": {"alive", "stalled"},
        "server": {"redis", "database"},
        "projection": {projection.name for projection in PROJECTIONS},
        "lookup": set(),
        "redis_run": {runtime.queue.connection.info("server")["run_id"][:8]},
        "source": set(),  # none sent more than 100 dead letters in ten minutes
    }
    for name in scraped.names():
        for label, values in scraped.labels(name).items():
            assert label == "le" or values <= few[label], name


def test_while_redis_is_down_complete_metrics_are_reported_and_partial_ones_are_left_out(runtime: Runtime) -> None:
    load(runtime)
    nowhere = redis_client("redis://127.0.0.1:1/0", 1.0, retries=0)
    scraped = scrape(replace(runtime, stream=Stream(nowhere, 4), queue=drain_queue(nowhere)))
    assert (scraped("projector_up", server="redis"), scraped("projector_up", server="database")) == (0, 1)
    assert scraped("projector_entries_applied_total", partition=str(TENANT_PARTITION)) == 3
    assert scraped("projector_dead_letters_open", reason="not_json") == 2
    assert not families(scraped) & names(FROM_BOTH_SERVERS, FROM_REDIS, FROM_BATCH_METRICS)
    assert scraped("projector_api_connections_open") >= scraped("projector_api_connections_in_use") == 0


def test_while_the_database_is_down_complete_metrics_are_reported_and_partial_ones_are_left_out(
    runtime: Runtime,
) -> None:
    load(runtime)
    nowhere = create_engine("postgresql+psycopg://nobody:secret@127.0.0.1:1/none", poolclass=QueuePool, pool_size=2)
    scraped = scrape(replace(runtime, reader=nowhere))
    assert (scraped("projector_up", server="redis"), scraped("projector_up", server="database")) == (1, 0)
    assert scraped("projector_dead_letters_total", reason="not_json") == 2
    assert scraped("projector_processes", role="worker", state="alive") == 0
    assert not families(scraped) & names(FROM_DATABASE, FROM_BOTH_SERVERS)


def test_a_read_that_fails_halfway_reports_nothing_of_its_server(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks_off(_redis: object) -> BatchMetrics:
        raise ResponseError("LOADING")

    monkeypatch.setattr(scraping, "read_batch_metrics", breaks_off)
    scraped = scrape(runtime)
    assert scraped("projector_up", server="redis") == 0
    assert not families(scraped) & names(FROM_BOTH_SERVERS, FROM_REDIS, FROM_BATCH_METRICS)


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Proxy]]:
    """Proxies that deliver nothing until the end of the test."""
    monkeypatch.setattr(scraping, "SOURCE_TIMEOUT_S", 3.0)
    proxies: list[Proxy] = []
    yield proxies
    for proxy in proxies:
        proxy.close()


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_redis_that_does_not_respond_delays_no_scrape(
    runtime: Runtime, redis_server: RedisServer, silent: list[Proxy]
) -> None:
    load(runtime)
    silent.append(proxy := Proxy(redis_server.port))
    proxy.partition()
    mute = redis_client(f"redis://127.0.0.1:{proxy.port}/0", 20.0)
    scraped = scrape(replace(runtime, stream=Stream(mute, 4), queue=drain_queue(mute)))
    assert (scraped("projector_up", server="redis"), scraped("projector_up", server="database")) == (0, 1)
    assert not families(scraped) & names(FROM_BOTH_SERVERS, FROM_REDIS, FROM_BATCH_METRICS)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_database_that_does_not_respond_delays_no_scrape(
    runtime: Runtime, database_url: str, postgres_server: PostgresServer, silent: list[Proxy]
) -> None:
    silent.append(proxy := Proxy(postgres_server.port))
    reader = reader_engine(database_url.replace(str(postgres_server.port), str(proxy.port)))
    through = replace(runtime, reader=reader)
    assert scrape(through)("projector_up", server="database") == 1
    proxy.partition()
    scraped = scrape(through)
    assert (scraped("projector_up", server="redis"), scraped("projector_up", server="database")) == (1, 0)
    assert not families(scraped) & names(FROM_DATABASE, FROM_BOTH_SERVERS)
    proxy.close()
    reader.dispose()


def test_batch_metrics_lost_by_redis_start_again_from_zero(runtime: Runtime) -> None:
    load(runtime)
    runtime.queue.connection.delete(KEY)
    append(runtime, event())
    drain_all(runtime)
    scraped = scrape(runtime)
    assert scraped("projector_batch_entries_sum") == 1
    assert scraped("projector_entries_applied_total", partition=str(TENANT_PARTITION)) == 4


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_counters_do_not_go_back_when_redis_is_restored_to_an_older_state(
    runtime: Runtime, redis_server: RedisServer, tmp_path: Path
) -> None:
    load(runtime)
    redis_server.kill()
    redis_server.copy_data(tmp_path / "copy")
    redis_server.start()
    append(runtime, *(event() for _ in range(50)))
    append_raw(runtime, TENANT_PARTITION, b"third nonsense")
    drain_all(runtime)
    shown, read_before = counters(scrape(runtime)), totals(runtime)["read"]
    redis_server.kill()
    redis_server.replace_data(tmp_path / "copy")
    redis_server.start()
    restored = counters(scrape(runtime))
    assert {key: value for key, value in restored.items() if value < shown.get(key, 0)} == {}
    append_raw(runtime, TENANT_PARTITION, b"fourth nonsense")
    drain_all(runtime)
    later = counters(scrape(runtime))
    assert {key: value for key, value in later.items() if value < max(shown.get(key, 0), restored.get(key, 0))} == {}
    # The new series begin with what was counted since the restart, so that `rate` invents nothing.
    entries = [value for (name, _), value in later.items() if name == "projector_batch_entries_sum"]
    assert entries == [totals(runtime)["read"] - read_before]


def counters(scraped: Scraped) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Return the samples of all counters and histograms of batches."""
    cumulative = {metric.name for metric in FROM_BATCH_METRICS}
    suffixes = ("_bucket", "_count", "_sum", "")
    names_ = {f"{name}{suffix}" for name in cumulative for suffix in suffixes}
    return {key: value for key, value in scraped.samples.items() if key[0] in names_}
