"""The Procfile's processes, and `migrate`."""

import os
import signal
import threading
import time
from collections.abc import Callable

import click
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from api_stub.settings import ApiSettings
from cli import environment, serve
from event_stream.settings import StreamSettings
from migrations import upgrade
from projections import checkpoint, schema
from projections.faults import describe
from projections.settings import DatabaseSettings
from projections.store import writer_engine
from workers.dispatcher import Dispatcher
from workers.runtime import Runtime, process_runtime
from workers.worker import spare_the_collector
from workers.worker import worker as rq_worker

RETRY_S = 1.0

log = structlog.get_logger()


@click.command()
def migrate() -> None:
    """Create or upgrade the schema."""
    environment.load()
    partitions = StreamSettings.from_environ(os.environ).partitions
    revision = migrate_database(DatabaseSettings.from_environ(os.environ).database_url, partitions)
    click.echo(f"schema is at revision {revision}, {partitions} partitions")


def migrate_database(database_url: str, partitions: int) -> str | None:
    """Bring a database to the newest schema and return the revision it then has, which may be newer than this release.

    Raises PartitionsMismatchError if it was made with other partitions.
    """
    engine = writer_engine(database_url)
    try:
        # A newer schema is fine, and an older release does not know its revisions.
        with engine.connect() as connection:
            stored = schema.found(connection)
        if stored is None or stored <= schema.REVISION:
            upgrade(engine)
        with engine.begin() as connection:
            checkpoint.create_all(connection, partitions)
            return schema.found(connection)
    finally:
        engine.dispose()


@click.command()
def api() -> None:
    """Answer the reads over HTTP on HOST:PORT."""
    environment.load()
    serve.run(ApiSettings.from_environ(os.environ), os.environ)


@click.command()
def worker() -> None:
    """Run one RQ worker that drains partitions when rung."""
    environment.load()
    _await_servers(Runtime.from_environ(os.environ), stopped=lambda: False)
    runtime = process_runtime()
    spare_the_collector()
    rq_worker(runtime).work(logging_level="WARNING")


@click.command()
def dispatcher() -> None:
    """Ring for drains wherever events wait, and trim the streams behind them."""
    environment.load()
    runtime = Runtime.from_environ(os.environ)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    _await_servers(runtime, stopping.is_set)
    Dispatcher(runtime).run(stopping.is_set)


def _await_servers(runtime: Runtime, stopped: Callable[[], bool]) -> None:
    """Return once Redis and the database answer and fit this process; raises if they do not fit."""
    while not stopped():
        try:
            runtime.check()
        except (RedisError, SQLAlchemyError) as error:
            log.warning("start.waiting", error=describe(error))
            time.sleep(RETRY_S)
        else:
            return
