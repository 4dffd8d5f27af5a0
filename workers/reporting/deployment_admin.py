"""Changes which deployment this database and this Redis belong to, while no process works for the other one."""

from functools import partial

from event_stream.streams.deployment import read_deployment, redis_place
from projections import schema
from projections.transaction import deployment_table
from projections.transaction.deployment_table import DatabaseDeployment
from workers import deployment
from workers.deployment import Deployment
from workers.errors import WorkersError
from workers.reporting.both_servers import read_both
from workers.reporting.heartbeats import read_dispatchers, read_workers
from workers.runtime import Runtime

NAMES_SHOWN = 3


class DeploymentInUseError(WorkersError):
    """Processes work on this Redis, so its deployment id must not change."""

    def __init__(self, names: list[str]) -> None:
        more = len(names) - NAMES_SHOWN
        listed = ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
        super().__init__(
            f"processes work on this Redis: {listed}; if they belong to another database, correct REDIS_URL, else stop"
            " them first (a killed process counts for 30 s)"
        )


def read(runtime: Runtime) -> Deployment:
    """Return what the database and Redis know; raises the errors of `read_both`, and SchemaTooOldError."""
    database, redis = read_both(partial(_read_database, runtime), partial(read_deployment, runtime.stream.redis))
    return deployment.combine(database, redis, redis_place(runtime.stream.redis))


def adopt(runtime: Runtime) -> Deployment:
    """Make this database the one of this Redis; raises DeploymentInUseError if the id of Redis changes in use."""
    found = read(runtime)
    if found.differs:
        _refuse_in_use(runtime)
    return deployment.adopt(runtime.writer, runtime.reader, runtime.stream.redis)


def fork(runtime: Runtime) -> Deployment:
    """Give this database and this Redis, both copies, an id of their own; raises DeploymentInUseError."""
    read(runtime)
    _refuse_in_use(runtime)
    return deployment.fork(runtime.writer, runtime.reader, runtime.stream.redis)


def _read_database(runtime: Runtime) -> DatabaseDeployment:
    with runtime.reader.connect() as connection:
        schema.check(connection)
        return deployment_table.read_deployment(connection)


def _refuse_in_use(runtime: Runtime) -> None:
    processes = [*read_workers(runtime), *read_dispatchers(runtime)]
    if names := [each.name for each in processes if not each.stalled]:
        raise DeploymentInUseError(names)
