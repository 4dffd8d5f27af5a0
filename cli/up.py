"""`projector up`: everything on this machine, kept running until it is told to end."""

import fcntl
import os
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from redis.exceptions import RedisError

from api_stub import keys
from api_stub.keys import Kind
from api_stub.settings import ApiSettings
from cli import demo, environment
from cli.embedded import EmbeddedValkey, free_port
from cli.output import CliError
from cli.processes import migrate_database
from cli.supervisor import POLL_S, Child, Supervisor, await_true
from event_stream import Producer, WaitTimeoutError
from event_stream.settings import StreamSettings
from event_stream.stream import Stream
from projections.settings import DatabaseSettings
from projections.store import writer_engine
from workers.runtime import Runtime, redis_client
from workers.settings import RedisSettings
from workers.status import STALLED_AFTER_S, read_dispatcher, read_workers

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 8.0
LOOK_EVERY_S = 5.0
DEMO_PAUSE_S = 1.0
DEMO_TIMEOUT_S = 120.0


@click.command()
@click.option("--demo", "with_demo", is_flag=True, help="Add a demo tenant with history and live traffic.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="How many workers to run.")
def up(with_demo: bool, workers: int) -> None:
    """Run everything on this machine: Redis and database unless they are set, the API, a dispatcher, workers.

    What dies or stalls is restarted. Prints `ready` once reads answer. SIGINT or SIGTERM ends it all.
    """
    directory = environment.data_dir(os.environ)
    directory.mkdir(parents=True, exist_ok=True)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with _only_one(directory):
        _run(directory, with_demo, workers, stopping)


@click.command(hidden=True)
def demo_traffic() -> None:
    """Append an event of the demo tenant every second, until ended."""
    environment.load()
    settings = StreamSettings.from_environ(os.environ)
    producer = Producer(
        Stream(redis_client(RedisSettings.from_environ(os.environ).redis_url), settings.partitions), settings
    )
    while True:
        producer.append(demo.live())
        time.sleep(DEMO_PAUSE_S)


def _run(directory: Path, with_demo: bool, workers: int, stopping: threading.Event) -> None:
    supervisor = Supervisor(directory / "up.pids")
    if ended := supervisor.end_leftovers():
        click.echo(f"ended {ended} processes that an earlier `projector up` left over", err=True)
    environ, valkey = _environ(directory)
    api = ApiSettings.from_environ(environ)
    _check_port(api.host, api.port)
    try:
        if valkey is not None:
            supervisor.add(Child("valkey", valkey.command(), environ, last=True))
        _await_redis(supervisor, environ, stopping)
        partitions = StreamSettings.from_environ(environ).partitions
        migrate_database(DatabaseSettings.from_environ(environ).database_url, partitions)
        environment.write({name: environ[name] for name in ("REDIS_URL", "DATABASE_URL")}, directory)
        for name in ["api", "dispatcher", *["worker"] * workers]:
            supervisor.add(_process(name, environ))
        _await_ready(supervisor, api, stopping)
        if with_demo and not stopping.is_set():
            _start_demo(supervisor, environ, directory, api)
        if not stopping.is_set():
            click.echo("ready")
        _tend(supervisor, Runtime.from_environ(environ), stopping)
    finally:
        supervisor.stop(STOP_TIMEOUT_S)
        (directory / environment.UP_ENV).unlink(missing_ok=True)


def _tend(supervisor: Supervisor, runtime: Runtime, stopping: threading.Event) -> None:
    look_at = time.monotonic() + LOOK_EVERY_S
    while not stopping.wait(POLL_S):
        supervisor.tend()
        if time.monotonic() >= look_at:
            _kill_stalled(supervisor, runtime)
            look_at = time.monotonic() + LOOK_EVERY_S


def _kill_stalled(supervisor: Supervisor, runtime: Runtime) -> None:
    """A paused worker holds SQLite's write lock for ever; killing it is the only cure."""
    try:
        processes = read_workers(runtime)
        beat = read_dispatcher(runtime.queue.connection, runtime.stream.now_ms())
    except RedisError:
        return
    here = [process for process in [*processes, *([beat] if beat else [])] if process.host == socket.gethostname()]
    stalled = [process.pid for process in here if process.stalled]
    supervisor.kill(stalled, why=f"silent for more than {STALLED_AFTER_S:.0f} s")


def _environ(directory: Path) -> tuple[dict[str, str], EmbeddedValkey | None]:
    """Return the environment of all processes, and the server to embed if none is named."""
    environ = dict(os.environ)
    valkey = None
    if not environ.get("REDIS_URL"):
        valkey = EmbeddedValkey.in_directory(directory / "valkey")
        environ["REDIS_URL"] = valkey.url
    if environ.get("PORT") == "0":
        environ["PORT"] = str(free_port(environ.get("HOST") or "127.0.0.1"))
    StreamSettings.from_environ(environ)
    RedisSettings.from_environ(environ)
    environ["DATABASE_URL"] = DatabaseSettings.from_environ(environ).database_url
    return environ, valkey


def _process(name: str, environ: Mapping[str, str]) -> Child:
    return Child(name, [sys.executable, "-m", "cli", name], environ)


def _start_demo(supervisor: Supervisor, environ: Mapping[str, str], directory: Path, api: ApiSettings) -> None:
    settings = StreamSettings.from_environ(environ)
    producer = Producer(Stream(redis_client(environ["REDIS_URL"]), settings.partitions), settings)
    last = producer.append_many(demo.history(time.time_ns() // 1000))[-1]
    supervisor.add(_process("demo-traffic", environ))
    key = _demo_key(environ["DATABASE_URL"], directory)
    try:
        producer.wait_until_projected(last, DEMO_TIMEOUT_S)
    except WaitTimeoutError as error:
        raise CliError(f"the demo's history: {error}") from None
    where = f"http://{api.host}:{api.port}/v1/config"
    header = f'-H "Authorization: Bearer {key}"'
    click.echo(f"\nThe demo tenant is {demo.TENANT}; its key reads every project of it:\n")
    for slug in demo.slugs():
        click.echo(f"curl -s {header} {where}/projects/{slug}/stats")
    first = demo.slugs()[0]
    click.echo(f'curl -s {header} -H "X-Project-Id: {demo.project_id(first)}" "{where}/monitoring/activity?hours=24"\n')


def _demo_key(database_url: str, directory: Path) -> str:
    """Return a key of the demo tenant; it is kept beside the data, for the owner's eyes only."""
    file = directory / "demo.key"
    engine = writer_engine(database_url)
    with engine.begin() as connection:
        known = keys.parse(file.read_text().strip()) if file.is_file() else None
        if known is not None and keys.find_many(connection, [known.key_id]):
            return file.read_text().strip()
        permissions = frozenset({"config:read"})
        text, _ = keys.create(connection, Kind.ORG, demo.TENANT, None, permissions, time.time_ns() // 1000)
    environment.write_secret(file, text + "\n")
    return text


def _await_redis(supervisor: Supervisor, environ: Mapping[str, str], stopping: threading.Event) -> None:
    client = redis_client(environ["REDIS_URL"])

    def answers() -> bool:
        try:
            return stopping.is_set() or bool(client.ping())
        except RedisError:
            return False

    if not await_true(answers, supervisor.tend, START_TIMEOUT_S):
        raise CliError(f"Redis did not answer within {START_TIMEOUT_S:.0f} s; is REDIS_URL right?")


def _await_ready(supervisor: Supervisor, api: ApiSettings, stopping: threading.Event) -> None:
    host, port = (api.ops_host or api.host, api.ops_port) if api.ops_port is not None else (api.host, api.port)
    urls = [f"http://{host}:{port}/readyz", f"http://{host}:{port}/healthz/projector"]
    if not await_true(lambda: stopping.is_set() or all(map(_is_ok, urls)), supervisor.tend, START_TIMEOUT_S):
        raise CliError(f"reads did not answer within {START_TIMEOUT_S:.0f} s; the lines above say why")


def _is_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (our own address)
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CliError(f"cannot listen on {host}:{port} ({error.strerror}); set HOST or PORT") from None


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; the kernel frees it however this process ends."""
    with (directory / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CliError(f"another `projector up` runs on {directory}; end it, or set PROJECTOR_DATA_DIR") from None
        yield
