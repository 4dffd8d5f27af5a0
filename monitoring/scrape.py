"""The handler of GET /metrics: reads the deployment in bounded time, even if a server does not respond."""

import asyncio
from collections.abc import Awaitable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from prometheus_client.core import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from api_stub.lookups.coalesce import Coalescer
from api_stub.lookups.threads import run_in_thread
from event_stream.errors import EventStreamError
from monitoring.collect import collect
from monitoring.snapshot import ApiProcess, MetricsSnapshot
from projections.error_classes import describe
from projections.errors import ProjectionsError
from workers.reporting.status import Status
from workers.reporting.status_reader import DatabaseState, RedisState, combine, read_database_state, read_redis_state
from workers.runtime import Runtime
from workers.telemetry.batch_metrics import BatchMetrics, read_batch_metrics

SOURCE_TIMEOUT_S = 4.0  # for each of two sources; Prometheus gives up after 10 s

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _RedisResult:
    state: RedisState
    batch_metrics: BatchMetrics
    status: Status | None  # None if the database could not be read


class ScrapeHandler:
    """Answers scrapes. Concurrent scrapes share the reads, and none waits longer than its time limit."""

    def __init__(self, runtime: Runtime, executor: Executor, api_process: ApiProcess) -> None:
        self._runtime = runtime
        self._api_process = api_process
        self._database: Coalescer[None, DatabaseState] = Coalescer(
            partial(run_in_thread, executor, lambda _: {None: read_database_state(runtime)})
        )
        self._redis: Coalescer[DatabaseState | None, _RedisResult] = Coalescer(
            partial(run_in_thread, executor, lambda states: {state: self._read_redis(state) for state in states})
        )

    async def __call__(self) -> bytes:
        """Return the metrics in Prometheus's text format, within twice SOURCE_TIMEOUT_S."""
        database = await _read("database", self._database.get(None))
        redis = await _read("redis", self._redis.get(database))
        return _text(
            MetricsSnapshot(
                api_process=self._api_process,
                database=database,
                redis=redis.state if redis else None,
                batch_metrics=redis.batch_metrics if redis else None,
                status=redis.status if redis else None,
            )
        )

    def _read_redis(self, database: DatabaseState | None) -> _RedisResult:
        state = read_redis_state(self._runtime)
        batch_metrics = read_batch_metrics(self._runtime.queue.connection)
        status = combine(self._runtime, database, state) if database else None
        return _RedisResult(state, batch_metrics, status)


async def _read(server: str, source: Awaitable[T | None]) -> T | None:
    """Return the result of a source; if it fails or takes too long, log that and return None."""
    try:
        return await asyncio.wait_for(source, SOURCE_TIMEOUT_S)
    except (RedisError, SQLAlchemyError, EventStreamError, ProjectionsError, TimeoutError) as error:
        log.warning("metrics.source_unavailable", server=server, error=describe(error))
        return None


def _text(snapshot: MetricsSnapshot) -> bytes:
    class SnapshotCollector(Collector):
        def collect(self) -> Iterator[Metric]:
            return collect(snapshot)

    return generate_latest(SnapshotCollector())
