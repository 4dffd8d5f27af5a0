"""`projector deployment`: show and change which deployment a database and a Redis belong to."""

import os
import sys
from collections.abc import Callable
from functools import wraps

import click
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from cli import environment
from cli.connections import existing_database_url
from cli.output import CliError, print_json
from workers.deployment import Deployment
from workers.reporting import deployment_admin, problems
from workers.reporting.both_servers import describe_missing
from workers.runtime import Runtime


def _with_runtime(command: Callable[[Runtime], Deployment]) -> Callable[..., None]:
    """Add --json to a command, and print the deployment that it returns. The exit status is 1 if something is wrong."""

    @click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
    @wraps(command)
    def with_runtime(as_json: bool) -> None:
        environment.load()
        existing_database_url()  # raises CliError if there is none
        try:
            found = command(Runtime.for_reports(os.environ))
        except (RedisError, SQLAlchemyError) as error:
            raise CliError(describe_missing(error)) from error
        wrong = problems.deployment_problems(found)
        if as_json:
            print_json({**found.model_dump(), "problems": wrong})
        else:
            for name, value in found.model_dump().items():
                click.echo(f"{name:21} {value or '-'}")
            for problem in wrong:
                click.echo(f"problem: {problem}", err=True)
        if wrong:
            sys.exit(1)

    return with_runtime


@click.group()
def deployment() -> None:
    """Show and change which deployment the database and Redis belong to.

    Both store the same random id. Processes that write refuse a Redis and a database with different ids.
    """


@deployment.command()
@_with_runtime
def show(runtime: Runtime) -> Deployment:
    """Show the ids of the database and of Redis, and which database writes for this deployment."""
    return deployment_admin.read(runtime)


@deployment.command()
@_with_runtime
def adopt(runtime: Runtime) -> Deployment:
    """Make this database the one that writes for this Redis.

    Use it after the database was restored on another server or in another file, and after the upgrade of a PostgreSQL
    server to another major version. If Redis has another id, it gets the id of the database; this is refused while
    processes work on this Redis.
    """
    return deployment_admin.adopt(runtime)


@deployment.command()
@_with_runtime
def fork(runtime: Runtime) -> Deployment:
    """Give this database and this Redis a new id of their own.

    Use it for copies of another deployment, such as a staging system that was restored from production. It is refused
    while processes work on this Redis. Restart the producers of the copy.
    """
    return deployment_admin.fork(runtime)
