"""`projector api`: composes the API of reads, health and metrics of the projector included, and serves it."""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import click
import uvicorn
import uvloop
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import SQLAlchemyError
from starlette.types import ASGIApp

from api_stub.app import application, operations_routes, read_routes
from api_stub.lookups.lookup import database
from api_stub.operations import Health, Operations
from api_stub.protocol import AnswersInOnePiece
from api_stub.reads import Reads
from api_stub.request_metrics import Meter
from api_stub.settings import ApiSettings
from cli import environment
from cli.output import CliError
from event_stream.errors import EventStreamError
from monitoring.metrics import Own
from monitoring.scrape import Scrape
from projections import schema
from projections.database.engines import reader_engine
from projections.errors import ProjectionsError
from projections.settings import DatabaseSettings
from workers.reporting.status import read_status
from workers.runtime import Runtime, redis_client

THREADS = 4
CHECKS = 4  # can it read, do events arrive, and the two halves of a scrape
REDIS_TIMEOUT_S = 1.5
SHUTDOWN_S = 5


@click.command()
def api() -> None:
    """Answer the reads over HTTP on HOST:PORT."""
    environment.load()
    run(ApiSettings.from_environ(os.environ), os.environ)


def run(settings: ApiSettings, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM; requests under way are answered first."""
    runtime = Runtime.from_environ(environ, _impatient_redis)
    engine = reader_engine(DatabaseSettings.from_environ(environ).database_url, pool_size=THREADS)
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="reads")
    reading = database(engine, executor)
    reads = Reads(reading, settings.key_cache_s)
    # Threads of their own, one for each check: while Redis is silent, they must not keep reads or each other waiting.
    checks = ThreadPoolExecutor(CHECKS, thread_name_prefix="checks")
    meter = Meter()
    scrape = Scrape(runtime, checks, Own(meter, reads.coalescers, reading))
    operations = operations_routes(Operations.on(engine, checks, lambda: projector_health(runtime), scrape))
    beside = settings.ops_port is None
    served = [read_routes(reads) + operations] if beside else [read_routes(reads), operations]
    for address in settings.addresses:
        check_free(address)
    servers = [
        _server(meter.on(application(routes)), *address)
        for routes, address in zip(served, settings.addresses, strict=True)
    ]
    try:
        uvloop.run(_serve(servers))
    finally:
        reading.close()


def check_free(address: tuple[str, int]) -> None:
    """Raise CliError unless this process can listen at an address."""
    host, port = address
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        raise CliError(
            f"cannot listen on {host}:{port} ({error.strerror}); set HOST, PORT, OPS_HOST or OPS_PORT"
        ) from None


def projector_health(runtime: Runtime) -> Health:
    """Return what keeps events from reaching the read models, and what has not reached them for ever."""
    try:
        with runtime.reader.connect() as connection:
            schema.check(connection)
        found = read_status(runtime)
    except (EventStreamError, ProjectionsError) as error:
        return Health([str(error)])
    except (RedisConnectionError, RedisTimeoutError):
        return Health(["Redis cannot be reached"])
    except RedisError as error:
        return Health([f"Redis refuses: {type(error).__name__}"])
    except SQLAlchemyError:
        return Health(["the database cannot be reached"])
    return Health(found.errors(), found.warnings())


def _impatient_redis(url: str) -> Redis:
    """Return a client that gives up sooner than those who ask for health and metrics do."""
    return redis_client(url, REDIS_TIMEOUT_S, retries=1)


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it: uvicorn's own handlers would end the process by the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _server(app: ASGIApp, host: str, port: int) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            http=AnswersInOnePiece,
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

    # What was made so far stays: a full collection need not walk it again while requests wait.
    gc.freeze()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    await asyncio.gather(*(server.serve() for server in servers))
