"""`projector up`: everything on this machine, kept running until it is told to end."""

import fcntl
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
from redis import Redis
from redis.exceptions import RedisError

from api_stub.auth import keys
from api_stub.auth.keys import Kind
from api_stub.settings import ApiSettings
from cli import environment
from cli.commands.api import check_free
from cli.commands.migrate import migrate_database
from cli.connections import make_producer
from cli.local import demo
from cli.local.embedded import EmbeddedValkey, free_port
from cli.local.supervisor import POLL_S, Child, Supervisor
from cli.local.watchdog import START_TIMEOUT_S, impatient_redis, is_ok, watch
from cli.output import CliError
from event_stream.settings import StreamSettings
from projections.database.engines import writer_engine
from projections.read_models.registry import PROJECTIONS
from projections.settings import DatabaseSettings
from projections.transaction import projection_version
from workers.runtime import Runtime
from workers.settings import RedisSettings

# Together with one look at servers that are silent, less than the 10 s that ending may take.
STOP_TIMEOUT_S = 7.0


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


def _run(directory: Path, with_demo: bool, workers: int, stopping: threading.Event) -> None:
    supervisor = Supervisor(directory / "up.pids")
    if ended := supervisor.end_leftovers():
        click.echo(f"ended {ended} processes that an earlier `projector up` left over", err=True)
    environ, valkey = _environ(directory)
    api = ApiSettings.from_environ(environ)
    for address in api.addresses:
        check_free(address)
    try:
        if valkey is not None:
            supervisor.add(Child("valkey", valkey.command(), environ, last=True))
        ready = _start(supervisor, environ, directory, workers, stopping)
        if ready and with_demo:
            ready = _start_demo(supervisor, environ, directory, api, stopping)
        if ready:
            click.echo("ready")
        watch(supervisor, Runtime.from_environ(environ, impatient_redis), _operations_url(api), stopping)
    finally:
        supervisor.stop(STOP_TIMEOUT_S)
        (directory / environment.UP_ENV).unlink(missing_ok=True)


def _start(
    supervisor: Supervisor, environ: Mapping[str, str], directory: Path, workers: int, stopping: threading.Event
) -> bool:
    """Start the Procfile's processes; returns whether reads answer, False if it was told to stop before."""
    client = impatient_redis(environ["REDIS_URL"])
    _await(supervisor, stopping, lambda: _pings(client), "Redis did not answer; is REDIS_URL right?")
    if stopping.is_set():
        return False
    partitions = StreamSettings.from_environ(environ).partitions
    migrate_database(DatabaseSettings.from_environ(environ).database_url, partitions)
    environment.write({name: environ[name] for name in ("REDIS_URL", "DATABASE_URL")}, directory)
    for name in ["api", "dispatcher", *["worker"] * workers]:
        supervisor.add(_process(name, environ))
    if _is_rebuild_due(environ["DATABASE_URL"]):
        supervisor.add(Child("rebuild", [*_command("migrate"), "--rebuild"], environ, until_done=True))
    url = _operations_url(ApiSettings.from_environ(environ))
    _await(supervisor, stopping, lambda: is_ok(f"{url}/readyz"), "reads did not answer; the lines above say why")
    return not stopping.is_set()


def _environ(directory: Path) -> tuple[dict[str, str], EmbeddedValkey | None]:
    """Return the environment of all processes, and the server to embed if none is named."""
    environ = dict(os.environ)
    for name, host in (("PORT", "HOST"), ("OPS_PORT", "OPS_HOST")):
        if environ.get(name) == "0":
            environ[name] = str(free_port(environ.get(host) or environ.get("HOST") or "127.0.0.1", _ports(environ)))
    valkey = None
    if not environ.get("REDIS_URL"):
        valkey = EmbeddedValkey.in_directory(directory / "valkey", apart_from=_ports(environ))
        environ["REDIS_URL"] = valkey.url
    StreamSettings.from_environ(environ)
    RedisSettings.from_environ(environ)
    environ["DATABASE_URL"] = DatabaseSettings.from_environ(environ).database_url
    return environ, valkey


def _ports(environ: Mapping[str, str]) -> set[int]:
    """Return where the API is going to listen: nobody does yet."""
    return {port for _, port in ApiSettings.from_environ(environ).addresses}


def _process(name: str, environ: Mapping[str, str]) -> Child:
    return Child(name, _command(name), environ)


def _command(name: str) -> list[str]:
    return [sys.executable, "-m", "cli", name]


def _is_rebuild_due(database_url: str) -> bool:
    """Return whether rows are to be rebuilt that an older release has made, or that lack events."""
    engine = writer_engine(database_url)
    try:
        with engine.connect() as connection:
            return any(each.due for each in projection_version.count(connection, PROJECTIONS).values())
    finally:
        engine.dispose()


def _start_demo(
    supervisor: Supervisor,
    environ: Mapping[str, str],
    directory: Path,
    api: ApiSettings,
    stopping: threading.Event,
) -> bool:
    """Append the demo's history and start its traffic; returns whether it can be read, False if told to stop."""
    producer = make_producer(environ)
    last = producer.append_many(demo.history(time.time_ns() // 1000))[-1]
    supervisor.add(_process("demo-traffic", environ))
    key = _demo_key(environ["DATABASE_URL"], directory)
    _await(supervisor, stopping, lambda: producer.is_projected(last), "the demo's history was not projected")
    if stopping.is_set():
        return False
    where = f"{_url(api.addresses[0])}/v1/config"
    header = f'-H "Authorization: Bearer {key}"'
    click.echo(f"\nThe demo tenant is {demo.TENANT}; its key reads every project of it:\n")
    for slug in demo.slugs():
        click.echo(f"curl -s {header} {where}/projects/{slug}/stats")
    first = demo.slugs()[0]
    click.echo(f'curl -s {header} -H "X-Project-Id: {demo.project_id(first)}" "{where}/monitoring/activity?hours=24"\n')
    return True


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


def _await(supervisor: Supervisor, stopping: threading.Event, condition: Callable[[], bool], otherwise: str) -> None:
    """Tend the processes until a condition is true or it is time to stop; raises CliError after START_TIMEOUT_S."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not stopping.is_set() and not condition():
        if time.monotonic() > deadline:
            raise CliError(f"{otherwise} (waited {START_TIMEOUT_S:.0f} s)")
        supervisor.tend()
        stopping.wait(POLL_S)


def _pings(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def _operations_url(api: ApiSettings) -> str:
    return _url(api.addresses[-1])


def _url(address: tuple[str, int]) -> str:
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@contextmanager
def _only_one(directory: Path) -> Iterator[None]:
    """Hold the directory's lock; the kernel frees it however this process ends."""
    with (directory / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CliError(f"another `projector up` runs on {directory}; end it, or set PROJECTOR_DATA_DIR") from None
        yield
