"""Checks of the database, whichever it is: is it there, does its schema fit, can it be written to."""

from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from projections import schema
from projections.error_classes import describe
from projections.transaction import checkpoint, dead_letters
from workers.doctor.check import Checker, Observation, Side, refusals
from workers.doctor.context import Context

database = Checker(Side.DATABASE)


@database.danger(
    "database-unreachable",
    "G7",
    means="The database does not answer: nothing is projected, and reads get 503.",
    remedy="start it, or mend DATABASE_URL (host, port, user, password, name) or the network between",
    hides=(Side.DATABASE, Side.POSTGRESQL, Side.SQLITE, Side.WORK),
)
def unreachable(patient: Context) -> Iterator[Observation]:
    """See whether it answers; an SQLite file that is not there is not made."""
    if _file_is_missing(patient):
        return
    try:
        patient.scalar("SELECT 1")
    except SQLAlchemyError as error:
        yield Observation(describe(error))


@database.danger(
    "schema-foreign",
    "G7",
    means="The tables were made by another application, or by a version from before the first release: every process"
    " refuses to start.",
    remedy="set DATABASE_URL to a new database, run `projector migrate`, and append the events again",
    hides=(Side.DATABASE, Side.POSTGRESQL, Side.SQLITE, Side.WORK),
)
def schema_foreign(patient: Context) -> Iterator[Observation]:
    """Check that the schema is one of this application."""
    if _file_is_missing(patient):
        return
    try:
        _revision(patient)
    except schema.ForeignSchemaError as error:
        yield Observation(str(error))


@database.danger(
    "schema-too-old",
    "G7",
    means="The database lacks migrations that this release needs: its processes refuse to start, and reads get 503.",
    remedy="run `projector migrate`; if there should be a schema already, is this the wrong folder or DATABASE_URL?",
    hides=(Side.DATABASE, Side.POSTGRESQL, Side.SQLITE, Side.WORK),
)
def schema_behind(patient: Context) -> Iterator[Observation]:
    """Compare the schema's revision with the one this release needs."""
    if _file_is_missing(patient):
        yield Observation(f"there is no database at {patient.sqlite_file}")
        return
    revision = _revision(patient)
    if revision is None or revision < schema.REVISION:
        yield Observation(f"the schema is {revision or 'missing'}, needed is {schema.REVISION}")


def _file_is_missing(patient: Context) -> bool:
    return patient.sqlite_file is not None and not patient.sqlite_file.exists()


@database.advice(
    "schema-newer",
    "G3",
    means="A newer release has migrated the database: this one works on, without what the newer one added.",
    remedy="bring every process to the newer release",
)
def schema_ahead(patient: Context) -> Iterator[Observation]:
    """Compare the schema's revision with the newest that this release knows."""
    revision = _revision(patient)
    if revision is not None and revision > schema.REVISION:
        yield Observation(f"the schema is {revision}, this release knows {schema.REVISION}")


def _revision(patient: Context) -> str | None:
    with patient.runtime.reader.connect() as connection:
        return schema.found(connection)


@database.danger(
    "database-partitions-differ",
    "G7",
    means="The deployment was made with another number of partitions than PROJECTOR_PARTITIONS: processes refuse to"
    " start.",
    remedy="set `PROJECTOR_PARTITIONS={stored}` for every process and producer",
    hides=(Side.WORK,),
)
def partitions_differ(patient: Context) -> Iterator[Observation]:
    """Compare the number of checkpoints with the setting."""
    with patient.runtime.reader.connect() as connection:
        stored = connection.scalar(select(func.count()).select_from(checkpoint.table))
    if stored != patient.settings.partitions:
        text = f"table checkpoint has {stored} rows, PROJECTOR_PARTITIONS is {patient.settings.partitions}"
        yield Observation(text, {"stored": stored})


@database.advice(
    "dead-letters-open",
    means="Entries could not be applied and wait for somebody to decide.",
    remedy="`projector dead-letters list` tells why; `projector dead-letters replay` what a release or a setting has"
    " mended, `projector dead-letters discard` the rest",
)
def dead_letters_open(patient: Context) -> Iterator[Observation]:
    """Count what waits, by reason."""
    with patient.runtime.reader.connect() as connection:
        counts = dead_letters.open_by_reason(connection)
    if counts:
        yield Observation(", ".join(f"{count:,} {reason}" for reason, count in counts.items()))


@database.advice(
    "database-inspection-denied",
    means="The database does not let us look at everything: these checks were not made.",
    remedy="give the user of DATABASE_URL what `projector migrate` would have given it (the tables' owner has it all)",
)
def look_refused(patient: Context) -> Iterator[Observation]:
    """Tell what the checks before could not see."""
    yield from refusals(patient, SQLAlchemyError)
