"""The schema revision that this release needs, and the check that the database has it."""

import re
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select, text

from projections.database.columns import metadata
from projections.database.table_names import schema_name
from projections.errors import ProjectionsError
from projections.read_models import registry

_REVISIONS = Path(__file__).parents[1] / "migrations" / "versions"
# Read from the file names, because importing the package would load Alembic into every process.
REVISIONS = tuple(sorted(file.name[:4] for file in _REVISIONS.glob("[0-9][0-9][0-9][0-9]_*.py")))
REVISION = REVISIONS[-1]
VERSION_TABLE = "projector_schema_version"  # not Alembic's default, which another application may use
READ_MODELS = tuple(projection.table for projection in registry.PROJECTIONS)

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))
_FOREIGN_VERSION_TABLE = "alembic_version"
_FORM = re.compile(r"[0-9]{4}")


class SchemaTooOldError(ProjectionsError):
    """The database's schema is older than this release needs, or missing."""

    def __init__(self, revision: str | None) -> None:
        super().__init__(
            f"the database's schema is {revision or 'missing'}, but this release needs {REVISION}; run `projector"
            " migrate`, or check the working folder and DATABASE_URL"
        )


class ForeignSchemaError(ProjectionsError):
    """The tables belong to another application, or to a version from before the first release."""

    def __init__(self, found: str, schema: str | None) -> None:
        place, way_out = "the database", "set DATABASE_URL to a new database"
        if schema is not None:
            place, way_out = f"schema {schema} of the database", f"{way_out}, or PROJECTOR_SCHEMA to a new schema"
        super().__init__(
            f"{place} has {found}, so it belongs to another application or to a version of the projector from before"
            f" its first release, and cannot be used; {way_out}, and run `projector migrate`"
        )


class WrongEncodingError(ProjectionsError):
    """The database cannot store every character of an event."""

    def __init__(self, encoding: str) -> None:
        super().__init__(
            f"the database's encoding is {encoding}, which cannot store every character of an event; create one with"
            " `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`, and set DATABASE_URL to it"
        )


def check_encoding(connection: Connection) -> None:
    """Raise WrongEncodingError if a PostgreSQL database is not in UTF-8. An SQLite file written by us always is."""
    if connection.dialect.name == "postgresql":
        encoding = connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise WrongEncodingError(str(encoding))


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema, None if it has none; raises ForeignSchemaError."""
    schema = schema_name(connection.dialect, _version)
    inspector = inspect(connection)
    if inspector.has_table(VERSION_TABLE, schema):
        revision = connection.scalar(select(_version.c.version_num))
        if not _is_ours(revision):
            raise ForeignSchemaError(f"revision {revision!r}, which no release has", schema)
        return revision
    tables = set(inspector.get_table_names(schema)) & {_FOREIGN_VERSION_TABLE, *metadata.tables}
    if tables:
        names = ", ".join(f"`{name}`" for name in sorted(tables))
        raise ForeignSchemaError(f"the table{'s' if len(tables) > 1 else ''} {names} but not `{VERSION_TABLE}`", schema)
    return None


def is_older(revision: str | None) -> bool:
    """Return whether a revision that `current_revision` has returned is older than this release needs."""
    return revision != REVISION and (revision is None or revision in REVISIONS)


def is_newer(revision: str | None) -> bool:
    """Return whether a revision that `current_revision` has returned was made by a newer release."""
    return revision is not None and revision not in REVISIONS


def check(connection: Connection) -> None:
    """Raise SchemaTooOldError if the schema is older than this release needs; a newer schema is allowed."""
    revision = current_revision(connection)
    if is_older(revision):
        raise SchemaTooOldError(revision)


def _is_ours(revision: str | None) -> bool:
    """Return whether a revision is one of this release, or has the form of a later one."""
    return revision is None or revision in REVISIONS or (_FORM.fullmatch(revision) is not None and revision > REVISION)
