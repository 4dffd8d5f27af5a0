"""Checks of the database, PostgreSQL or SQLite: it is reachable, its schema fits, and no dead letters are open."""

from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from projections import schema
from projections.error_classes import describe
from projections.transaction import checkpoint_table, dead_letter_counts
from workers.doctor.check import Observation, Subject, denied_inspections, error_check, warning_check
from workers.doctor.context import Context

DATABASE_SUBJECTS = (Subject.DATABASE, Subject.POSTGRESQL, Subject.SQLITE, Subject.STATUS)
# The checks of PostgreSQL read none of our tables. Before a migration they matter most.
SUBJECTS_WITH_TABLES = (Subject.DATABASE, Subject.SQLITE, Subject.STATUS)


@error_check(
    "database-unreachable",
    Subject.DATABASE,
    "G7",
    meaning="The database does not answer. Nothing is projected, and reads get 503.",
    remedy="start it, or correct DATABASE_URL (host, port, user, password, name) or the network between; `unsupported"
    " startup parameter` comes from PgBouncer: docs/how-to/deploy.md#pgbouncer",
    blocks=DATABASE_SUBJECTS,
)
def unreachable(context: Context) -> Iterator[Observation]:
    """Run a query; a missing SQLite file is not created."""
    if _is_file_missing(context):
        return
    try:
        context.scalar("SELECT 1")
    except SQLAlchemyError as error:
        yield Observation(describe(error))


@error_check(
    "schema-foreign",
    Subject.DATABASE,
    "G7",
    meaning="The tables belong to another application, or to a version from before the first release. Every process"
    " refuses to start.",
    remedy="set DATABASE_URL to a new database, or on PostgreSQL PROJECTOR_SCHEMA to a new schema, and run `projector"
    " migrate`; if the tables are from before the first release, append the events again",
    blocks=SUBJECTS_WITH_TABLES,
)
def schema_foreign(context: Context) -> Iterator[Observation]:
    """Check that the schema is one of this application."""
    if _is_file_missing(context):
        return
    try:
        _revision(context)
    except schema.ForeignSchemaError as error:
        yield Observation(str(error))


@error_check(
    "schema-too-old",
    Subject.DATABASE,
    "G7",
    meaning="The database lacks migrations that this release needs. Its processes refuse to start, and reads get 503.",
    remedy="run `projector migrate`; if the schema should exist already, check DATABASE_URL and the working directory",
    blocks=SUBJECTS_WITH_TABLES,
)
def schema_too_old(context: Context) -> Iterator[Observation]:
    """Compare the schema's revision with the one that this release needs."""
    if _is_file_missing(context):
        yield Observation(f"there is no database at {context.sqlite_file}")
        return
    revision = _revision(context)
    if schema.is_older(revision):
        yield Observation(f"the schema is {revision or 'missing'}, needed is {schema.REVISION}")


def _is_file_missing(context: Context) -> bool:
    return context.sqlite_file is not None and not context.sqlite_file.exists()


@warning_check(
    "schema-newer",
    Subject.DATABASE,
    "G3",
    meaning="A newer release has migrated the database. This release continues to work, without what the newer one"
    " added.",
    remedy="upgrade every process to the newer release",
)
def schema_newer(context: Context) -> Iterator[Observation]:
    """Compare the schema's revision with the newest that this release knows."""
    revision = _revision(context)
    if schema.is_newer(revision):
        yield Observation(f"the schema is {revision}, this release knows {schema.REVISION}")


def _revision(context: Context) -> str | None:
    with context.runtime.reader.connect() as connection:
        return schema.current_revision(connection)


@error_check(
    "database-partitions-differ",
    Subject.DATABASE,
    "G7",
    meaning="The deployment was created with another number of partitions than PROJECTOR_PARTITIONS. Processes refuse"
    " to start.",
    remedy="set `PROJECTOR_PARTITIONS={stored}` for every process and producer",
    blocks=(Subject.STATUS,),
)
def partitions_differ(context: Context) -> Iterator[Observation]:
    """Compare the number of checkpoints with the setting."""
    with context.runtime.reader.connect() as connection:
        stored = connection.scalar(select(func.count()).select_from(checkpoint_table.table))
    if stored != context.settings.partitions:
        message = f"table checkpoint has {stored} rows, PROJECTOR_PARTITIONS is {context.settings.partitions}"
        yield Observation(message, {"stored": stored})


@warning_check(
    "dead-letters-open",
    Subject.DATABASE,
    meaning="Entries could not be applied and became dead letters. They stay open until an operator decides.",
    remedy="`projector dead-letters list` shows the reasons; `projector dead-letters replay` those that an upgrade or a"
    " setting has fixed, `projector dead-letters discard` the others",
)
def dead_letters_open(context: Context) -> Iterator[Observation]:
    """Count the open dead letters by reason."""
    with context.runtime.reader.connect() as connection:
        counts = dead_letter_counts.count_open_by_reason(connection)
    if counts:
        yield Observation(", ".join(f"{count.total:,} {reason}" for reason, count in counts.items()))


@warning_check(
    "dead-letters-not-kept",
    Subject.DATABASE,
    "G8",
    meaning="A tenant has more open dead letters of one reason than PROJECTOR_DEAD_LETTERS_MAX. Only the newest are"
    " kept, with their bytes; the others are counted and cannot be replayed.",
    remedy="fix the producer that `projector status` names, then `projector dead-letters discard --reason REASON`,"
    " which also resets the count; raise PROJECTOR_DEAD_LETTERS_MAX if they are needed",
)
def dead_letters_not_kept(context: Context) -> Iterator[Observation]:
    """Count the dead letters that are only counted."""
    with context.runtime.reader.connect() as connection:
        counts = dead_letter_counts.count_open_by_reason(connection)
    dropped = {reason: count.not_kept for reason, count in counts.items() if count.not_kept}
    if dropped:
        yield Observation(", ".join(f"{count:,} {reason}" for reason, count in dropped.items()))


@warning_check(
    "database-inspection-denied",
    Subject.DATABASE,
    meaning="The database does not allow some inspections. The checks that need them were skipped.",
    remedy="grant the user of DATABASE_URL the rights that it lacks; the owner of the tables, who ran"
    " `projector migrate`, has all of them",
)
def inspection_denied(context: Context) -> Iterator[Observation]:
    """Report the checks that the database has prevented."""
    yield from denied_inspections(context, SQLAlchemyError)
