"""The `projector` command and how its errors are told."""

import sys

import click
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from cli import append, contract, dead_letters, doctor, keys, migrate, processes, rebuild, status, up, verify
from cli.output import CliError
from event_stream.errors import EventStreamError
from event_stream.settings import SettingsError
from projections.errors import ProjectionsError
from workers import logs
from workers.errors import WorkersError

_ON_PURPOSE = (CliError, EventStreamError, ProjectionsError, WorkersError)
_OUTAGES = (RedisError, SQLAlchemyError, OSError)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="projector")
def projector(debug: bool) -> None:  # noqa: ARG001 (read where errors are told)
    """Event-sourced read models: events in through Redis Streams, two instant reads out over HTTP."""
    logs.configure()


for command in (
    up.up,
    migrate.migrate,
    processes.api,
    processes.worker,
    processes.dispatcher,
    append.append,
    status.status,
    keys.keys,
    dead_letters.dead_letters,
    rebuild.rebuild,
    verify.verify,
    doctor.doctor,
    contract.contract,
    up.demo_traffic,
):
    projector.add_command(command)


def run() -> None:
    """Run the command; errors are one line on stderr: exit 1 for a problem, 2 for wrong usage."""
    try:
        projector(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _end(error.format_message(), error.exit_code)
    except SettingsError as error:
        _end(str(error), 2)
    except _ON_PURPOSE + _OUTAGES as error:
        if "--debug" in sys.argv:
            raise
        _end(_one_line(error), 1)


def _end(message: str, code: int) -> None:
    click.echo(f"projector: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _one_line(error: Exception) -> str:
    # What drivers say may hold a statement and its parameters behind the first line.
    text = str(getattr(error, "orig", None) or error).strip().splitlines()
    return text[0] if text else type(error).__name__
