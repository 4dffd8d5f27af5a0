"""Checks whether Redis and the database belong together."""

from collections.abc import Iterator

from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context


@error_check(
    "deployment-differs",
    Subject.STATUS,
    "G1",
    meaning="Redis and the database belong to different deployments. Every process that writes refuses to work, so"
    " nothing is projected.",
    remedy="correct REDIS_URL or DATABASE_URL; if the two are to belong together from now on, stop all workers and"
    " dispatchers and run `projector deployment adopt`",
)
def differs(context: Context) -> Iterator[Observation]:
    """Compare the deployment ids."""
    found = context.status.deployment
    if found.differs:
        yield Observation(f"{found.redis} has id {found.redis_id}, {found.database} has id {found.database_id}")


@error_check(
    "deployment-copied",
    Subject.STATUS,
    "G8",
    meaning="Another database writes for this deployment, so this one is a copy, such as a backup that was restored on"
    " another server. The dispatcher trims nothing, so Redis's memory grows.",
    remedy="run `projector deployment adopt` if this database replaces the other one; if Redis is a copy too, stop all"
    " workers and dispatchers and run `projector deployment fork`; else correct DATABASE_URL",
)
def copied(context: Context) -> Iterator[Observation]:
    """Compare the database with the one that Redis knows."""
    found = context.status.deployment
    if found.is_copy:
        yield Observation(
            f"{found.redis} knows {found.redis_database_server}, {found.database} is {found.database_server}"
        )


@warning_check(
    "database-unidentified",
    Subject.STATUS,
    "G1",
    meaning="PostgreSQL does not show its system identifier to this user, so a copy of the database cannot be told from"
    " the database itself.",
    remedy="`GRANT EXECUTE ON FUNCTION pg_control_system() TO {user}`",
)
def unidentified(context: Context) -> Iterator[Observation]:
    """Check whether the database server can be identified."""
    if context.status.deployment.database_server is None:
        user = context.scalar("SELECT current_user")
        yield Observation("the function pg_control_system() is denied or missing", {"user": user})
