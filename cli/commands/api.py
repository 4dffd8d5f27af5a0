"""`projector api`: composes the HTTP API from the reads, health and metrics, and serves it."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import click
import uvloop

from api_stub.app import application, operations_routes, read_routes
from api_stub.handlers import ReadHandlers
from api_stub.lookups.databases import open_database
from api_stub.operations import Operations
from api_stub.request_metrics import RequestMetrics
from api_stub.serving.limits import Limits
from api_stub.serving.listener import Listener
from api_stub.serving.serve import serve
from api_stub.serving.shutdown import Shutdown
from api_stub.settings import ApiSettings
from cli import environment
from cli.local.ports import check_free
from cli.process_log import logged_process
from monitoring.health import projector_health
from monitoring.scrape import ScrapeHandler
from monitoring.snapshot import ApiProcess
from projections.database.engines import reader_engine
from projections.settings import DatabaseSettings
from workers.runtime import Runtime

THREADS = 4
CHECKS = 4  # readiness, health, and the two halves of a scrape
OPS_CONNECTIONS = 32  # of the operations endpoints on a port of their own


@click.command()
def api() -> None:
    """Serve the reads over HTTP on HOST:PORT.

    It also serves health, metrics and the OpenAPI document: on OPS_PORT if that is set, else on the same port.
    """
    environment.load()
    run(ApiSettings.from_environ(os.environ), os.environ)


def run(settings: ApiSettings, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT, and for the grace period after it."""
    runtime = Runtime.for_reports(environ)
    engine = reader_engine(DatabaseSettings.from_environ(environ).database_url, pool_size=THREADS)
    database = open_database(engine, ThreadPoolExecutor(THREADS, thread_name_prefix="reads"))
    reads = ReadHandlers(database, settings.key_cache_s)
    # Each check has a thread of its own, so that a silent Redis delays neither reads nor other checks.
    checks = ThreadPoolExecutor(CHECKS, thread_name_prefix="checks")
    metrics = RequestMetrics()
    scrape = ScrapeHandler(runtime, checks, ApiProcess(metrics, reads.coalescers, database))
    shutdown = Shutdown()
    health = partial(projector_health, runtime)
    operations = operations_routes(Operations.create(engine, checks, health, scrape, shutdown))
    is_one_port = settings.ops_port is None
    served = [read_routes(reads) + operations] if is_one_port else [read_routes(reads), operations]
    for address in settings.addresses:
        check_free(address)
    limits = [Limits(settings.connection_limit, settings.keep_alive_s), Limits(OPS_CONNECTIONS, settings.keep_alive_s)]
    listeners = [
        Listener(metrics.wrap(application(routes)), address, limit, shutdown, [route.path for route in operations])
        for routes, address, limit in zip(served, settings.addresses, limits, strict=False)
    ]
    try:
        with logged_process("api", runtime, settings.addresses):
            uvloop.run(serve(listeners, shutdown, settings.shutdown_grace_s))
    finally:
        database.close()
