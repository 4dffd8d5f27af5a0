"""What a process that drains or rings holds open: the stream, the database, the queue."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import ReadOnlyError
from redis.retry import Retry
from rq import Queue
from sqlalchemy import Engine

from event_stream.settings import StreamSettings
from event_stream.stream import Stream
from projections import schema
from projections.database.engines import reader_engine, writer_engine
from projections.folding.projection import Projection
from projections.read_models.registry import PROJECTIONS
from projections.settings import DatabaseSettings
from projections.transaction import checkpoint
from workers import logs
from workers.jobs.queue import drain_queue
from workers.settings import RedisSettings

_REDIS_TIMEOUT_S = 5


def redis_client(url: str, timeout_s: float = _REDIS_TIMEOUT_S, retries: int = 3) -> Redis:
    """Return a client that gives up on a silent server within seconds and tries a lost connection again.

    A server that has become a replica keeps its connections; only a new one finds the primary that took over.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=retries),
        retry_on_error=[ReadOnlyError],
    )


@dataclass(frozen=True)
class Runtime:
    """The open ends of one process. RQ gets a Redis client of its own, as it stretches its pool's timeouts."""

    settings: StreamSettings
    stream: Stream
    writer: Engine
    reader: Engine
    queue: Queue
    projections: Sequence[Projection] = PROJECTIONS

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], open_redis: Callable[[str], Redis] = redis_client) -> Self:
        """Open what the environment names; raises SettingsError. Nothing is connected yet."""
        settings = StreamSettings.from_environ(environ)
        redis_url = RedisSettings.from_environ(environ).redis_url
        database_url = DatabaseSettings.from_environ(environ).database_url
        return cls(
            settings=settings,
            stream=Stream(open_redis(redis_url), settings.partitions),
            writer=writer_engine(database_url),
            reader=reader_engine(database_url),
            queue=drain_queue(open_redis(redis_url)),
        )

    def check(self) -> None:
        """Raise SchemaTooOldError, or PartitionsMismatchError, unless this process fits the deployment.

        The database decides how many partitions there are; producers are told where they look for it.
        """
        with self.reader.connect() as connection:
            schema.check(connection)
            checkpoint.read_all(connection, self.settings.partitions)
        self.stream.announce_partitions()


@cache
def process_runtime() -> Runtime:
    """Return this process's runtime, opened by the first job that needs it; raises as `check` does."""
    logs.configure_once()
    runtime = Runtime.from_environ(os.environ)
    runtime.check()
    return runtime
