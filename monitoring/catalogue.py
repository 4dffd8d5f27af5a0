"""The catalogue of all metrics, grouped by the source that they are read from.

Metrics of the deployment are the same in every API process: they come from the data of `projector status`. Only
those in FROM_API_PROCESS differ between API processes (docs/reference/metrics.md).

Add a metric here and run `make docs`, which writes the table in docs/reference/metrics.md.
"""

from typing import Any

from api_stub.request_metrics import LATENCY_BOUNDS_S
from monitoring.definition import HistogramValue, MetricDefinition
from monitoring.samples import (
    by_label,
    by_label_and_run,
    by_partition,
    histogram,
    oldest_heartbeats,
    open_dead_letters,
    process_counts,
    single,
)
from monitoring.snapshot import ApiProcess, MetricsSnapshot
from workers.background_stream import dropped_from_stderr
from workers.reporting.status import Status
from workers.reporting.status_reader import DatabaseState, RedisState
from workers.telemetry.batch_metrics import BatchMetrics

AVAILABILITY: tuple[MetricDefinition[MetricsSnapshot], ...] = (
    MetricDefinition(
        "projector_up",
        "gauge",
        ("server",),
        "1 if this scrape could read the server (`redis` or `database`), else 0. Metrics that need an unreadable server"
        " are left out.",
        lambda snapshot: [
            (("database",), float(snapshot.database is not None)),
            (("redis",), float(snapshot.redis is not None)),
        ],
    ),
)
FROM_DATABASE: tuple[MetricDefinition[DatabaseState], ...] = (
    MetricDefinition(
        "projector_entries_applied_total",
        "counter",
        ("partition",),
        "Entries whose event was new and was applied.",
        lambda database: [((str(checkpoint.partition),), checkpoint.applied) for checkpoint in database.checkpoints],
    ),
    MetricDefinition(
        "projector_entries_duplicate_total",
        "counter",
        ("partition",),
        "Entries that repeat an accepted event. They change nothing.",
        lambda database: [((str(checkpoint.partition),), checkpoint.duplicates) for checkpoint in database.checkpoints],
    ),
    MetricDefinition(
        "projector_entries_dead_lettered_total",
        "counter",
        ("partition",),
        "Entries that can never be applied and became dead letters.",
        lambda database: [
            ((str(checkpoint.partition),), checkpoint.dead_lettered) for checkpoint in database.checkpoints
        ],
    ),
    MetricDefinition(
        "projector_dead_letters_open",
        "gauge",
        ("reason",),
        "Dead letters that are neither applied by a replay nor discarded.",
        open_dead_letters(lambda count: count.total),
    ),
    MetricDefinition(
        "projector_dead_letters_not_kept",
        "gauge",
        ("reason",),
        "Open dead letters that are only counted: the older ones of a tenant with more than"
        " PROJECTOR_DEAD_LETTERS_MAX.",
        open_dead_letters(lambda count: count.not_kept),
    ),
    MetricDefinition(
        "projector_rebuild_pending_tenants",
        "gauge",
        ("projection",),
        "Tenants whose rows of a projection have an older version than this API process's release, or lack events: a"
        " rebuild is pending.",
        lambda database: by_label({name: count.pending for name, count in database.outdated.items()}),
    ),
    MetricDefinition(
        "projector_newer_version_tenants",
        "gauge",
        ("projection",),
        "Tenants whose rows of a projection have a newer version than this API process's release. Workers of this"
        " release do not change them.",
        lambda database: by_label({name: count.newer for name, count in database.outdated.items()}),
    ),
)
FROM_BOTH_SERVERS: tuple[MetricDefinition[Status], ...] = (
    MetricDefinition(
        "projector_deployment_consistent",
        "gauge",
        (),
        "1 if Redis and the database belong to one deployment and the database is not a copy, else 0.",
        lambda status: single(not (status.deployment.differs or status.deployment.is_copy)),
    ),
    MetricDefinition(
        "projector_lag_entries",
        "gauge",
        ("partition",),
        "Entries that were appended and are not yet projected.",
        by_partition(lambda partition: partition.lag_entries),
    ),
    MetricDefinition(
        "projector_lag_seconds",
        "gauge",
        ("partition",),
        "Age of the oldest entry that is not yet projected, or how long entries have waited without progress; 0 if no"
        " entry waits.",
        by_partition(lambda partition: partition.lag_s),
    ),
    MetricDefinition(
        "projector_entries_lost_total",
        "counter",
        ("partition",),
        "Entries that Redis lost before they were read: trimmed, evicted, or restored from an older state.",
        by_partition(lambda partition: partition.lost),
    ),
    MetricDefinition(
        "projector_entries_lost_not_acknowledged",
        "gauge",
        ("partition",),
        "Lost entries that no operator has acknowledged with `projector lost acknowledge`.",
        by_partition(lambda partition: partition.lost_not_acknowledged),
    ),
    MetricDefinition(
        "projector_partition_stalled",
        "gauge",
        ("partition",),
        "1 if entries have waited for more than 30 s while none was projected, else 0.",
        by_partition(lambda partition: partition.stalled),
    ),
    MetricDefinition(
        "projector_entry_ids_ahead_seconds",
        "gauge",
        ("partition",),
        "How far the last id of a stream is ahead of the database's clock; 0 if that is at most"
        " PROJECTOR_MAX_CLOCK_SKEW_S.",
        by_partition(lambda partition: partition.id_ahead_s),
    ),
    MetricDefinition(
        "projector_entry_ids_exhausted",
        "gauge",
        ("partition",),
        "1 if the stream has given the largest id, so that it accepts no more entries, else 0.",
        by_partition(lambda partition: partition.ids_exhausted),
    ),
    MetricDefinition(
        "projector_partition_consecutive_failures",
        "gauge",
        ("partition",),
        "Batches that failed in a row; 0 after a batch is committed.",
        by_partition(lambda partition: partition.failure.consecutive_failures if partition.failure else 0),
    ),
    MetricDefinition(
        "projector_dead_letter_source_entries",
        "gauge",
        ("partition", "source"),
        "Entries of a source that became dead letters in the last ten minutes, for at most ten sources with more than"
        " 100. The source is empty for entries without a valid one.",
        lambda status: [
            ((str(each.partition), each.source or ""), each.entries)
            for each in status.dead_letter_sources
            if each.is_reported
        ],
    ),
)
FROM_REDIS: tuple[MetricDefinition[RedisState], ...] = (
    MetricDefinition(
        "projector_redis_refuses_writes",
        "gauge",
        (),
        "1 if Redis answers a write with an error, else 0. Meanwhile producers cannot append, and heartbeats are"
        " missing.",
        lambda redis: single(redis.refusal is not None),
    ),
    MetricDefinition(
        "projector_processes",
        "gauge",
        ("role", "state"),
        "Known processes of each role (`worker`, `dispatcher`) by state: `alive`, or `stalled` after 30 s without a"
        " heartbeat.",
        process_counts,
    ),
    MetricDefinition(
        "projector_heartbeat_age_seconds",
        "gauge",
        ("role",),
        "Age of the oldest last heartbeat among the processes of a role; left out if no process is known.",
        oldest_heartbeats,
    ),
    MetricDefinition(
        "projector_queue_length",
        "gauge",
        (),
        "Jobs that wait for a worker.",
        lambda redis: single(redis.queue_length),
    ),
    MetricDefinition(
        "projector_breaker_open",
        "gauge",
        (),
        "1 while the circuit breaker is open, else 0. It opens when events of many tenants fail, and nothing is"
        " dead-lettered then.",
        lambda redis: single(redis.breaker_open_reason is not None),
    ),
    MetricDefinition(
        "projector_verify_mismatched_rows",
        "gauge",
        (),
        "Rows of read models that differ from the event log, as far as they were verified.",
        lambda redis: single(redis.verification.mismatched_rows),
    ),
    MetricDefinition(
        "projector_verify_log_errors",
        "gauge",
        (),
        "Partitions whose event log lacks events that were applied.",
        lambda redis: single(len(redis.verification.log_errors)),
    ),
    MetricDefinition(
        "projector_verify_skipped_tenants",
        "gauge",
        (),
        "Tenants that the last verification pass skipped because summing up their events took too long.",
        lambda redis: single(redis.verification.skipped_tenants),
    ),
    MetricDefinition(
        "projector_verify_overdue",
        "gauge",
        (),
        "Tenants and event logs that verification should have looked at more than an hour ago, and has not.",
        lambda redis: single(redis.verification.overdue_tenants + len(redis.verification.overdue_logs)),
    ),
    MetricDefinition(
        "projector_verify_finished_timestamp_seconds",
        "gauge",
        (),
        "When the last verification pass finished, in seconds since 1970; 0 before the first.",
        lambda redis: single((redis.verification.finished_ms or 0) / 1000),
    ),
)
FROM_BATCH_METRICS: tuple[MetricDefinition[BatchMetrics], ...] = (
    MetricDefinition(
        "projector_dead_letters_total",
        "counter",
        ("reason", "redis_run"),
        "Entries that became dead letters since the process of Redis was started, by reason.",
        lambda batches: by_label_and_run(batches, batches.dead_lettered),
    ),
    MetricDefinition(
        "projector_batches_failed_total",
        "counter",
        ("fault", "redis_run"),
        "Batches that were rolled back and tried again. The cause is `external` (a server or machine) or `internal`"
        " (this release or an event).",
        lambda batches: by_label_and_run(batches, batches.failed),
    ),
    MetricDefinition(
        "projector_batch_entries",
        "histogram",
        ("redis_run",),
        "Entries of a committed batch.",
        lambda batches: histogram(batches, batches.batch_entries),
    ),
    MetricDefinition(
        "projector_batch_seconds",
        "histogram",
        ("redis_run",),
        "Duration of a committed batch, from the start of reading to the commit.",
        lambda batches: histogram(batches, batches.batch_us, 1e6),
    ),
    MetricDefinition(
        "projector_commit_seconds",
        "histogram",
        ("redis_run",),
        "Duration of a batch's transaction, including its commit and the decoding of the next batch.",
        lambda batches: histogram(batches, batches.commit_us, 1e6),
    ),
)
FROM_API_PROCESS: tuple[MetricDefinition[ApiProcess], ...] = (
    MetricDefinition(
        "projector_api_request_seconds",
        "histogram",
        ("route", "status"),
        "Duration of requests to this API process, by route template (`none` for an unknown path) and HTTP status.",
        lambda api: [
            ((route, str(status)), HistogramValue(LATENCY_BOUNDS_S, latencies.counts, latencies.sum_s))
            for (route, status), latencies in api.requests.histograms.items()
        ],
    ),
    MetricDefinition(
        "projector_api_lookups_total",
        "counter",
        ("lookup",),
        "Lookups by requests to this API process. The lookup is `key` or the name of a read.",
        lambda api: by_label({name: coalescer.lookups for name, coalescer in api.coalescers.items()}),
    ),
    MetricDefinition(
        "projector_api_queries_total",
        "counter",
        ("lookup",),
        "Queries that this API process sent for lookups. Concurrent lookups share a query.",
        lambda api: by_label({name: coalescer.queries for name, coalescer in api.coalescers.items()}),
    ),
    MetricDefinition(
        "projector_api_connections_in_use",
        "gauge",
        (),
        "Database connections that reads of this API process use now.",
        lambda api: single(api.database.connections().in_use),
    ),
    MetricDefinition(
        "projector_api_connections_open",
        "gauge",
        (),
        "Database connections that this API process holds open for reads.",
        lambda api: single(api.database.connections().open),
    ),
    MetricDefinition(
        "projector_api_log_lines_dropped_total",
        "counter",
        (),
        "Log lines that this API process dropped because nobody read them fast enough.",
        lambda _: single(dropped_from_stderr()),
    ),
)
METRICS: tuple[MetricDefinition[Any], ...] = (
    *AVAILABILITY,
    *FROM_DATABASE,
    *FROM_BOTH_SERVERS,
    *FROM_REDIS,
    *FROM_BATCH_METRICS,
    *FROM_API_PROCESS,
)
