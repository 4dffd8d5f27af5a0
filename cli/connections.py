"""How commands open the database and Redis; the database must exist and have the schema that they need."""

import os
from collections.abc import Mapping
from pathlib import Path

from sqlalchemy import Engine, make_url

from cli.output import CliError
from event_stream.producer import Producer
from event_stream.settings import StreamSettings
from event_stream.stream import Stream
from projections import schema
from projections.database.engines import reader_engine, writer_engine
from projections.settings import DatabaseSettings
from workers.runtime import redis_client
from workers.settings import RedisSettings


def open_writer() -> Engine:
    """Return an engine that writes; raises CliError or SchemaTooOldError if there is nothing to write to."""
    engine = writer_engine(_existing())
    _check(engine)
    return engine


def open_reader() -> Engine:
    """Return an engine that reads; raises as `open_writer` does."""
    engine = reader_engine(_existing())
    _check(engine)
    return engine


def _existing() -> str:
    url = DatabaseSettings.from_environ(os.environ).database_url
    file = make_url(url).database
    if url.startswith("sqlite") and file and not Path(file).exists():
        raise CliError(f"there is no database at {file}; run `projector migrate`, or is this the wrong folder?")
    return url


def _check(engine: Engine) -> None:
    with engine.connect() as connection:
        schema.check(connection)


def make_producer(environ: Mapping[str, str]) -> Producer:
    """Return a producer for the Redis that the environment names."""
    settings = StreamSettings.from_environ(environ)
    client = redis_client(RedisSettings.from_environ(environ).redis_url)
    return Producer(Stream(client, settings.partitions), settings)
