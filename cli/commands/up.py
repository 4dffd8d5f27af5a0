"""`projector up`: run everything on this machine until a signal stops it."""

import fcntl
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import click
import structlog

from api_stub.settings import ApiSettings
from cli import environment
from cli.local import demo, pid_file
from cli.local.demo_start import start_demo
from cli.local.ports import check_free, http_url
from cli.local.startup import Startup, operations_url, prepare_environ
from cli.local.supervisor import Child, Supervisor
from cli.local.watchdog import fail_fast_redis, watch
from cli.output import CliError
from event_stream.plurals import counted
from workers.background_stream import BackgroundStream
from workers.runtime import Runtime

# Together with one probe of silent servers, this is less than the 10 s that a stop may take.
STOP_TIMEOUT_S = 7.0

log = structlog.get_logger()


@click.command()
@click.option("--demo", "with_demo", is_flag=True, help="Add demo tenants with 30 days of history and live traffic.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Number of worker processes.")
def up(with_demo: bool, workers: int) -> None:
    """Run everything on this machine: the API, a dispatcher and workers.

    Without REDIS_URL it also starts an embedded Valkey server, and without DATABASE_URL it uses an SQLite file.
    Processes that exit or stall are restarted. It prints `ready` when reads answer, and stops on SIGINT (Ctrl-C) or
    SIGTERM.
    """
    directory = environment.data_dir(os.environ)
    directory.mkdir(parents=True, exist_ok=True)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    output = BackgroundStream(sys.stdout.fileno())  # a pipe that nobody reads must not delay the supervision
    with _locked(directory), redirect_stdout(output):
        _run(directory, with_demo, workers, stopping)


def _run(directory: Path, with_demo: bool, workers: int, stopping: threading.Event) -> None:
    supervisor = Supervisor(directory / "up.pids")
    if killed := pid_file.kill_listed(supervisor.pids_file):
        click.echo(f"killed {counted(killed, 'process')} that an earlier `projector up` left running", err=True)
    environ, valkey = prepare_environ(directory)
    api = ApiSettings.from_environ(environ)
    for address in api.addresses:
        check_free(address)
    redis_remedy = "check REDIS_URL" if valkey is None else f"see the log of the embedded server, {valkey.log_file}"
    startup = Startup(supervisor, environ, stopping, redis_remedy)
    try:
        if valkey is not None:
            log.info("valkey.starting", address=f"127.0.0.1:{valkey.port}", log=str(valkey.log_file))
            supervisor.add(Child("valkey", valkey.command(), environ, stop_last=True))
        is_ready = startup.start(directory, workers)
        if is_ready and with_demo:
            key = start_demo(startup, directory)
            is_ready = key is not None
            if key is not None:
                _print_demo_requests(http_url(api.addresses[0]), key)
        if is_ready:
            click.echo("ready")
        watch(supervisor, Runtime.from_environ(environ, fail_fast_redis), operations_url(api), stopping)
    finally:
        supervisor.stop(STOP_TIMEOUT_S)
        (directory / environment.UP_ENV).unlink(missing_ok=True)


def _print_demo_requests(api_url: str, key: str) -> None:
    """Print a curl command for each read of the main demo tenant."""
    url = f"{api_url}/v1/config"
    header = f'-H "Authorization: Bearer {key}"'
    tenant, *others = demo.TENANTS
    click.echo(f"\nThe demo tenant is {tenant.id}. Its API key reads all its projects:\n")
    for slug in tenant.projects:
        click.echo(f"curl -s {header} {url}/projects/{slug}/stats")
    project_id = tenant.project_id(next(iter(tenant.projects)))
    click.echo(f'curl -s {header} -H "X-Project-Id: {project_id}" "{url}/monitoring/activity?hours=24"')
    click.echo(f"curl -s {header} {url}/projects")
    click.echo(f"curl -s {header} {url}/usage\n")
    names = ", ".join(other.id for other in others)
    click.echo(f"Other tenants are {names}. Create a key for one with `projector keys create --tenant ID`.\n")


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold the directory's lock. The kernel releases it when this process ends, even if it is killed."""
    with (directory / "up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CliError(
                f"another `projector up` runs on {directory}; stop it, or set PROJECTOR_DATA_DIR to another directory"
            ) from None
        yield
