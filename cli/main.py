"""The `projector` command, and how it reports errors."""

import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from itertools import pairwise

import click
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from cli.output import CliError
from event_stream.errors import EventStreamError
from event_stream.settings import SettingsError
from projections.errors import ProjectionsError
from workers import background_stream, logs
from workers.errors import WorkersError

# The module of each command. It defines a function with the command's name.
MODULES = {
    "api": "cli.commands.api",
    "append": "cli.commands.append",
    "contract": "cli.commands.contract",
    "dead-letters": "cli.commands.dead_letters",
    "demo-traffic": "cli.commands.demo_traffic",
    "deployment": "cli.commands.deployment",
    "dispatcher": "cli.commands.dispatcher",
    "doctor": "cli.commands.doctor",
    "keys": "cli.commands.keys",
    "lost": "cli.commands.lost",
    "migrate": "cli.commands.migrate",
    "rebuild": "cli.commands.rebuild",
    "status": "cli.commands.status",
    "up": "cli.commands.up",
    "verify": "cli.commands.verify",
    "worker": "cli.commands.worker",
}
EXPECTED_ERRORS = (
    *(CliError, EventStreamError, ProjectionsError, WorkersError),
    *(RedisError, SQLAlchemyError, OSError),
)


class LazyCommands(Mapping[str, click.Command]):
    """The commands of `MODULES`. Each module is imported on first use: a worker needs no web server and no Alembic."""

    def __getitem__(self, name: str) -> click.Command:
        """Return the command with this name. Raises KeyError if there is none."""
        command: click.Command = getattr(import_module(MODULES[name]), name.replace("-", "_"))
        return command

    def __iter__(self) -> Iterator[str]:
        """Yield the names of all commands."""
        return iter(MODULES)

    def __len__(self) -> int:
        """Return the number of commands."""
        return len(MODULES)


class ProjectorGroup(click.Group):
    """The group of all commands. It refuses empty arguments, which usually come from unset shell variables."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Raise UsageError if an argument of any command, or the value in `--option=`, is empty."""
        for before, argument in pairwise(["projector", *args]):
            is_empty_option = argument.startswith("--") and argument.partition("=")[1:] == ("=", "")
            if not argument or is_empty_option:
                place = argument or f"the argument after {before!r}"
                raise click.UsageError(f"{place} is empty; leave it out, or set the variable that it comes from.")
        return super().parse_args(ctx, args)


@click.group(
    cls=ProjectorGroup,
    commands=LazyCommands(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="projector")
def projector(debug: bool) -> None:  # noqa: ARG001 (`run` looks for the option in sys.argv)
    """Event-sourced read models: events come in through Redis Streams, two fast reads go out over HTTP."""
    logs.configure()


def run() -> None:
    """Run the command. An error is one line on stderr; the exit status is 2 for wrong usage and 1 for other errors."""
    background_stream.write_stderr_in_background()
    try:
        projector(standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _exit_with(error.format_message(), error.exit_code)
    except SettingsError as error:
        _exit_with(str(error), 2)
    except EXPECTED_ERRORS as error:
        if "--debug" in sys.argv:
            raise
        _exit_with(_first_line(error), 1)


def _exit_with(message: str, code: int) -> None:
    click.echo(f"projector: {' '.join(message.split())}", err=True)
    sys.exit(code)


def _first_line(error: Exception) -> str:
    # The further lines of a driver's error may hold a statement and its parameters.
    lines = str(getattr(error, "orig", None) or error).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    if isinstance(error, EventStreamError):
        return first
    # The texts of the drivers, such as "connection timeout expired", do not say which server they mean.
    if isinstance(error, RedisError):
        return f"Redis: {first}"
    return f"the database: {first}" if isinstance(error, SQLAlchemyError) else first
