"""Composes the API of reads, health of the projector included, and serves it."""

import asyncio
import gc
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import uvicorn
import uvloop
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette

from api_stub.app import application, operations_routes, read_routes
from api_stub.handlers import Reads
from api_stub.lookup import database
from api_stub.operations import Operations
from api_stub.settings import ApiSettings
from cli.output import CliError
from event_stream.errors import EventStreamError
from projections import schema
from projections.errors import ProjectionsError
from projections.settings import DatabaseSettings
from projections.store import reader_engine
from workers.runtime import Runtime
from workers.status import read_status

THREADS = 4
SHUTDOWN_S = 5


def run(settings: ApiSettings, environ: Mapping[str, str]) -> None:
    """Serve until SIGTERM; requests under way are answered first."""
    runtime = Runtime.from_environ(environ)
    engine = reader_engine(DatabaseSettings.from_environ(environ).database_url, pool_size=THREADS)
    executor = ThreadPoolExecutor(THREADS, thread_name_prefix="reads")
    reading = database(engine, executor)
    reads = read_routes(Reads.on(reading, settings.key_cache_s))
    # Threads of their own: while Redis is silent, checks of the projector must not keep reads waiting.
    checks = ThreadPoolExecutor(2, thread_name_prefix="checks")
    operations = operations_routes(Operations.on(engine, checks, lambda: projector_problems(runtime)))
    both = settings.ops_port is None
    apps = [application(reads + operations)] if both else [application(reads), application(operations)]
    for address in settings.addresses:
        check_free(address)
    servers = [_server(app, *address) for app, address in zip(apps, settings.addresses, strict=True)]
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


def projector_problems(runtime: Runtime) -> Sequence[str]:
    """Return what keeps events from reaching the read models."""
    try:
        with runtime.reader.connect() as connection:
            schema.check(connection)
        return read_status(runtime).problems()
    except (EventStreamError, ProjectionsError) as error:
        return [str(error)]
    except (RedisConnectionError, RedisTimeoutError):
        return ["Redis cannot be reached"]
    except RedisError as error:
        return [f"Redis refuses: {type(error).__name__}"]
    except SQLAlchemyError:
        return ["the database cannot be reached"]


class _Server(uvicorn.Server):
    """A server that leaves signals to whoever runs it: uvicorn's own handlers would end the process by the signal."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _server(app: Starlette, host: str, port: int) -> uvicorn.Server:
    return _Server(
        uvicorn.Config(
            app,
            host=host,
            port=port,
            access_log=False,
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
