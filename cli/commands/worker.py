"""`projector worker`: run an RQ worker that drains partitions and verifies tenants."""

import os

import click
import structlog
from redis.exceptions import RedisError

from cli import environment
from cli.connections import await_servers
from cli.output import CliError
from cli.process_log import logged_process
from projections.error_classes import describe
from projections.transaction import projection_version
from workers.dispatch.rq_worker import create_worker as rq_worker
from workers.dispatch.rq_worker import tune_gc
from workers.runtime import Runtime, process_runtime

log = structlog.get_logger()


@click.command()
def worker() -> None:
    """Run one worker, which drains partitions and verifies tenants.

    It exits with status 0 only if a signal stopped it, and with 1 after an error or when a newer release has rebuilt
    read models.
    """
    environment.load()
    await_servers(Runtime.for_writing(os.environ), should_stop=lambda: False)
    runtime = process_runtime()
    with runtime.reader.connect() as connection:
        projection_version.check(connection, runtime.projections)
    running = rq_worker(runtime)
    tune_gc()
    try:
        with logged_process("worker", runtime):
            running.work(logging_level="WARNING")
    except RedisError as error:  # it could not sign off
        if not running.was_asked_to_stop:
            raise
        log.warning("worker.stopped_without_redis", error=describe(error))
    if running.outdated is not None:
        raise CliError(str(running.outdated))
    if not running.was_asked_to_stop:
        raise CliError("the worker ended after an error, which the log line before this one names; start it again")
