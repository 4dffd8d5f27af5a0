"""How commands connect to the database and Redis, and check that both fit this release."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog
from redis.exceptions import RedisError
from sqlalchemy import Engine, make_url
from sqlalchemy.exc import SQLAlchemyError

from cli.output import CliError
from event_stream.producer import Producer
from event_stream.settings import StreamSettings
from event_stream.streams.stream import Stream
from projections import schema
from projections.database.engines import reader_engine, writer_engine
from projections.error_classes import describe
from projections.settings import DatabaseSettings
from workers.runtime import Runtime, redis_client
from workers.settings import RedisSettings

RETRY_S = 1.0

log = structlog.get_logger()


def open_writer() -> Engine:
    """Return an engine that writes. Raises CliError or SchemaTooOldError if the database is missing or too old."""
    engine = writer_engine(_existing_database_url())
    _check_schema(engine)
    return engine


def open_reader() -> Engine:
    """Return an engine that only reads. Raises as `open_writer` does."""
    engine = reader_engine(_existing_database_url())
    _check_schema(engine)
    return engine


def make_producer(environ: Mapping[str, str]) -> Producer:
    """Return a producer for the Redis server that the environment names."""
    settings = StreamSettings.from_environ(environ)
    client = redis_client(RedisSettings.from_environ(environ).redis_url)
    return Producer(Stream(client, settings.partitions), settings)


def await_servers(runtime: Runtime, should_stop: Callable[[], bool]) -> None:
    """Wait until Redis and the database answer. Raises if the deployment does not fit this release or its settings."""
    while not should_stop():
        try:
            runtime.check()
        except (RedisError, SQLAlchemyError) as error:
            log.warning("startup.waiting", error=describe(error))
            time.sleep(RETRY_S)
        else:
            return


def _existing_database_url() -> str:
    url = DatabaseSettings.from_environ(os.environ).database_url
    file = make_url(url).database
    if url.startswith("sqlite") and file and not Path(file).exists():
        raise CliError(
            f"there is no database at {file}; run `projector migrate`, or change to the directory that has the data"
        )
    return url


def _check_schema(engine: Engine) -> None:
    with engine.connect() as connection:
        schema.check(connection)
