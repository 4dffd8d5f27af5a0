"""`projector worker`: run an RQ worker that drains partitions and verifies tenants."""

import os

import click

from cli import environment
from cli.connections import await_servers
from cli.output import CliError
from projections.transaction import projection_version
from workers.dispatch.rq_worker import create_worker as rq_worker
from workers.dispatch.rq_worker import tune_gc
from workers.runtime import Runtime, process_runtime


@click.command()
def worker() -> None:
    """Run one worker, which drains partitions and verifies tenants.

    It exits with status 1 when a newer release has rebuilt read models.
    """
    environment.load()
    await_servers(Runtime.from_environ(os.environ), should_stop=lambda: False)
    runtime = process_runtime()
    with runtime.reader.connect() as connection:
        projection_version.check(connection, runtime.projections)
    running = rq_worker(runtime)
    tune_gc()
    running.work(logging_level="WARNING")
    if running.outdated is not None:
        raise CliError(str(running.outdated))
