"""One scrape: reads the deployment within bounded time, whatever is away, and says what could be read."""

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
from api_stub.lookups.lookup import in_thread
from event_stream.errors import EventStreamError
from monitoring.metrics import Own, Reading, collect
from projections.error_classes import describe
from projections.errors import ProjectionsError
from workers.reporting.status import Observed, Recorded, Status, complete, read_observed, read_recorded
from workers.runtime import Runtime
from workers.telemetry.batch_metrics import BatchMetrics, read_batch_metrics

HALF_WITHIN_S = 4.0  # both halves take less than the 10 s after which Prometheus gives up

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class FromRedis:
    """What a scrape reads from Redis, and the whole that it makes with what the database said, if it did."""

    observed: Observed
    tally: BatchMetrics
    status: Status | None


class Scrape:
    """Answers scrapes. Those that come at the same time share one reading; one that hangs keeps nobody waiting."""

    def __init__(self, runtime: Runtime, executor: Executor, own: Own) -> None:
        self._runtime = runtime
        self._own = own
        self._recorded: Coalescer[None, Recorded] = Coalescer(
            partial(in_thread, executor, lambda _: {None: read_recorded(runtime)})
        )
        self._redis: Coalescer[Recorded | None, FromRedis] = Coalescer(
            partial(in_thread, executor, lambda asks: {recorded: self._read_redis(recorded) for recorded in asks})
        )

    async def __call__(self) -> bytes:
        """Return the metrics as Prometheus's text, within twice HALF_WITHIN_S; what is away is left out, and said."""
        recorded = await _read("database", self._recorded.get(None))
        redis = await _read("redis", self._redis.get(recorded))
        return _text(
            Reading(
                own=self._own,
                recorded=recorded,
                observed=redis.observed if redis else None,
                tally=redis.tally if redis else None,
                status=redis.status if redis else None,
            )
        )

    def _read_redis(self, recorded: Recorded | None) -> FromRedis:
        observed = read_observed(self._runtime)
        tally = read_batch_metrics(self._runtime.queue.connection)
        status = complete(self._runtime, recorded, observed) if recorded else None
        return FromRedis(observed, tally, status)


async def _read(server: str, answer: Awaitable[T | None]) -> T | None:
    """Return an answer, or None if there is none in time; the log says why."""
    try:
        return await asyncio.wait_for(answer, HALF_WITHIN_S)
    except (RedisError, SQLAlchemyError, EventStreamError, ProjectionsError, TimeoutError) as error:
        log.warning("metrics.source_unavailable", server=server, error=describe(error))
        return None


def _text(reading: Reading) -> bytes:
    class Once(Collector):
        def collect(self) -> Iterator[Metric]:
            return collect(reading)

    return generate_latest(Once())
