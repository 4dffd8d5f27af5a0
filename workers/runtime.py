"""Runtime: the connections that a worker or dispatcher process shares: stream, database and queue."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Self

import structlog
from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError
from redis.retry import Retry
from rq import Queue
from sqlalchemy import Engine

from event_stream.settings import StreamSettings
from event_stream.streams.deployment import DeploymentPin
from event_stream.streams.stream import Stream
from projections import schema
from projections.database.engines import reader_engine, report_engine, writer_engine
from projections.folding.projection import Projection
from projections.read_models.registry import PROJECTIONS
from projections.settings import DatabaseSettings, DeadLetterSettings
from projections.transaction import checkpoint_table, deployment_table
from workers import deployment, logs
from workers.deployment import Deployment
from workers.jobs.queue import drain_queue
from workers.settings import RedisSettings

_REDIS_TIMEOUT_S = 5
# For commands and checks that report: a server is reported as missing when it has been silent for so long.
REPORT_REDIS_TIMEOUT_S = 1.5
REPORT_DATABASE_TIMEOUT_S = 2.0

log = structlog.get_logger()


def redis_client(
    url: str, timeout_s: float = _REDIS_TIMEOUT_S, retries: int = 3, pin: DeploymentPin | None = None
) -> Redis:
    """Return a client that times out within seconds and retries lost connections.

    After a failover, a demoted server refuses writes on its old connections (ReadOnlyError). The retry reconnects and
    reaches the new primary. With `pin`, a new connection to the Redis of another deployment raises
    DeploymentMismatchError.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ExponentialWithJitterBackoff(base=0.05, cap=0.5), retries=retries),
        retry_on_error=[ReadOnlyError],
        redis_connect_func=pin and pin.on_redis_connect,
    )


def fail_fast_redis(url: str) -> Redis:
    """Return a client that retries a lost connection once, and does not wait for a silent server."""
    client = redis_client(url, REPORT_REDIS_TIMEOUT_S)
    # A server that was silent once is not asked again.
    client.set_retry(Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)))
    return client


@dataclass(frozen=True)
class Runtime:
    """The connections of one process.

    RQ has its own Redis client, because RQ raises the timeouts of the connection pool that it uses.
    """

    settings: StreamSettings
    stream: Stream
    writer: Engine
    reader: Engine
    queue: Queue
    projections: Sequence[Projection] = PROJECTIONS
    dead_letters: DeadLetterSettings = DeadLetterSettings()

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], open_redis: Callable[[str], Redis] = redis_client) -> Self:
        """Return the runtime of a process that reports, for these settings, not yet connected; raises SettingsError."""
        settings = StreamSettings.from_environ(environ)
        redis_url = RedisSettings.from_environ(environ).redis_url
        database_url = DatabaseSettings.from_environ(environ).database_url
        return cls(
            settings=settings,
            stream=Stream(open_redis(redis_url), settings.partitions),
            writer=writer_engine(database_url),
            reader=reader_engine(database_url),
            queue=drain_queue(open_redis(redis_url)),
            dead_letters=DeadLetterSettings.from_environ(environ),
        )

    @classmethod
    def for_reports(cls, environ: Mapping[str, str]) -> Self:
        """Return the runtime of a command or a check that reports, and that must not wait for a silent server."""
        url = DatabaseSettings.from_environ(environ).database_url
        runtime = cls.from_environ(environ, fail_fast_redis)
        return replace(runtime, reader=report_engine(url, REPORT_DATABASE_TIMEOUT_S))

    @classmethod
    def for_writing(cls, environ: Mapping[str, str]) -> Self:
        """Return the runtime of a process that writes: each new connection must lead to the same deployment."""
        pin = DeploymentPin()
        runtime = cls.from_environ(environ, partial(redis_client, pin=pin))
        deployment_table.pin(runtime.writer, pin)
        deployment_table.pin(runtime.reader, pin)
        return runtime

    def check(self) -> None:
        """Check that this process fits the deployment, and announce the deployment and its partitions in Redis.

        Raises the errors of `schema.check`, DeploymentMismatchError, and PartitionsMismatchError: the database defines
        that number.
        """
        with self.reader.connect() as connection:
            schema.check(connection)
            checkpoint_table.read_all(connection, self.settings.partitions)
        found = self.link()
        if found.is_copy:
            log.warning("deployment.copied_database", writes=found.redis_database_server, this=found.database_server)
        self.stream.announce_partitions()

    def deployment(self) -> Deployment:
        """Return what the database and Redis know about their deployment; raises errors of both."""
        return deployment.read(self.reader, self.stream.redis)

    def link(self) -> Deployment:
        """Let the database and Redis take over from each other what one does not know; see `deployment.link`."""
        return deployment.link(self.writer, self.reader, self.stream.redis)


@cache
def process_runtime() -> Runtime:
    """Return the runtime of this process, created and checked by the first job; raises the errors of `check`."""
    logs.configure_once()
    runtime = Runtime.for_writing(os.environ)
    runtime.check()
    return runtime
