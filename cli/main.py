"""The `projector` command and how its errors are told."""

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module

import click
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from cli.output import CliError
from event_stream.errors import EventStreamError
from event_stream.settings import SettingsError
from projections.errors import ProjectionsError
from workers import logs
from workers.errors import WorkersError

# Where each command is; its function has its name.
MODULES = {
    "api": "cli.commands.api",
    "append": "cli.commands.append",
    "contract": "cli.commands.contract",
    "dead-letters": "cli.commands.dead_letters",
    "demo-traffic": "cli.local.demo",
    "dispatcher": "cli.commands.processes",
    "doctor": "cli.commands.doctor",
    "keys": "cli.commands.keys",
    "migrate": "cli.commands.migrate",
    "rebuild": "cli.commands.rebuild",
    "status": "cli.commands.status",
    "up": "cli.commands.up",
    "verify": "cli.commands.verify",
    "worker": "cli.commands.processes",
}
_ON_PURPOSE = (CliError, EventStreamError, ProjectionsError, WorkersError)
_OUTAGES = (RedisError, SQLAlchemyError, OSError)


class OnDemand(Mapping[str, click.Command]):
    """The commands of `MODULES`, each imported when it is asked for: a worker, say, needs no web server, no Alembic."""

    def __getitem__(self, name: str) -> click.Command:
        """Return a command; raises KeyError if there is none of this name."""
        command: click.Command = getattr(import_module(MODULES[name]), name.replace("-", "_"))
        return command

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all commands."""
        return iter(MODULES)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(MODULES)


@click.group(
    commands=OnDemand(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="projector")
def projector(debug: bool) -> None:  # noqa: ARG001 (read where errors are told)
    """Event-sourced read models: events in through Redis Streams, two instant reads out over HTTP."""
    logs.configure()


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
