"""`projector worker` and `projector dispatcher`: who projects, and who rings for it."""

import os
import signal
import threading
import time
from collections.abc import Callable

import click
import structlog
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from cli import environment
from cli.output import CliError
from projections.error_classes import describe
from projections.transaction import projection_version
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import tune_gc
from workers.dispatch.rq_worker import worker as rq_worker
from workers.runtime import Runtime, process_runtime

RETRY_S = 1.0

log = structlog.get_logger()


@click.command()
def worker() -> None:
    """Run one RQ worker that drains partitions when rung.

    It stops where a newer release has taken over the read models.
    """
    environment.load()
    _await_servers(Runtime.from_environ(os.environ), stopped=lambda: False)
    runtime = process_runtime()
    with runtime.reader.connect() as connection:
        projection_version.check(connection, runtime.projections)
    running = rq_worker(runtime)
    tune_gc()
    running.work(logging_level="WARNING")
    if running.outdated is not None:
        raise CliError(str(running.outdated))


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
            log.warning("startup.waiting", error=describe(error))
            time.sleep(RETRY_S)
        else:
            return
