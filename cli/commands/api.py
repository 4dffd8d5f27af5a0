"""`projector api`: composes the HTTP API from the reads, health and metrics, and serves it with uvicorn."""

import asyncio
import gc
import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import click
import uvicorn
import uvloop
from redis import Redis
from starlette.types import ASGIApp

from api_stub.app import application, operations_routes, read_routes
from api_stub.handlers import ReadHandlers
from api_stub.lookups.databases import open_database
from api_stub.operations import Operations
from api_stub.protocol import CorkedProtocol
from api_stub.request_metrics import RequestMetrics
from api_stub.settings import ApiSettings
from cli import environment
from cli.local.ports import check_free
from monitoring.health import projector_health
from monitoring.scrape import ScrapeHandler
from monitoring.snapshot import ApiProcess
from projections.database.engines import reader_engine
from projections.settings import DatabaseSettings
from workers.runtime import Runtime, redis_client

THREADS = 4
CHECKS = 4  # readiness, health, and the two halves of a scrape
REDIS_TIMEOUT_S = 1.5
SHUTDOWN_S = 5


@click.command()
def api() -> None:
    """Serve the reads over HTTP on HOST:PORT.

    It also serves health, metrics and the OpenAPI document: on OPS_PORT if that is set, else on the same port.
    """
    environment.load()
    run(ApiSettings.from_environ(os.environ), os.environ)


def run(settings: ApiSettings, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM or SIGINT. Requests in progress are answered first."""
    runtime = Runtime.from_environ(environ, _fail_fast_redis)
    engine = reader_engine(DatabaseSettings.from_environ(environ).database_url, pool_size=THREADS)
    database = open_database(engine, ThreadPoolExecutor(THREADS, thread_name_prefix="reads"))
    reads = ReadHandlers(database, settings.key_cache_s)
    # Each check has a thread of its own, so that a silent Redis delays neither reads nor other checks.
    checks = ThreadPoolExecutor(CHECKS, thread_name_prefix="checks")
    metrics = RequestMetrics()
    scrape = ScrapeHandler(runtime, checks, ApiProcess(metrics, reads.coalescers, database))
    operations = operations_routes(Operations.create(engine, checks, lambda: projector_health(runtime), scrape))
    is_one_port = settings.ops_port is None
    served = [read_routes(reads) + operations] if is_one_port else [read_routes(reads), operations]
    for address in settings.addresses:
        check_free(address)
    servers = [
        _server(metrics.wrap(application(routes)), *address)
        for routes, address in zip(served, settings.addresses, strict=True)
    ]
    try:
        uvloop.run(_serve(servers))
    finally:
        database.close()


def _fail_fast_redis(url: str) -> Redis:
    """Return a client that gives up before the callers of health and metrics do."""
    return redis_client(url, REDIS_TIMEOUT_S, retries=1)


class _Server(uvicorn.Server):
    """A uvicorn server without its signal handlers, which would end the process by the signal instead of status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals; `_serve` handles them for all servers."""
        yield


def _server(app: ASGIApp, host: str, port: int) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=CorkedProtocol,
            ws="none",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="warning",
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
    )


async def _serve(servers: list[uvicorn.Server]) -> None:
    def stop() -> None:
        for server in servers:
            server.should_exit = True

    # The objects made so far live as long as the process: exclude them from full collections, which delay requests.
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(server.serve() for server in servers))
