"""The schema revision that this release needs, and the check that the database has it."""

from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

from projections.errors import ProjectionsError
from projections.read_models import registry

_REVISIONS = Path(__file__).parents[1] / "migrations" / "versions"
# Read from the file names, because importing the package would load Alembic into every process.
REVISION = max(file.name[:4] for file in _REVISIONS.glob("[0-9][0-9][0-9][0-9]_*.py"))
VERSION_TABLE = "projector_schema_version"  # not Alembic's default, which another application may use
READ_MODELS = tuple(projection.table for projection in registry.PROJECTIONS)

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))
_FOREIGN_VERSION_TABLE = "alembic_version"


class SchemaTooOldError(ProjectionsError):
    """The database's schema is older than this release needs, or missing."""

    def __init__(self, revision: str | None) -> None:
        super().__init__(
            f"the database's schema is {revision or 'missing'}, but this release needs {REVISION}; run `projector"
            " migrate`, or check the working folder and DATABASE_URL"
        )


class ForeignSchemaError(ProjectionsError):
    """The tables belong to another application, or to a version from before the first release."""

    def __init__(self) -> None:
        super().__init__(
            f"the database has a table {_FOREIGN_VERSION_TABLE}, so it belongs to another application or to a version"
            " of the projector from before its first release, and cannot be upgraded; set DATABASE_URL to a new"
            " database, run `projector migrate`, and append the events again"
        )


def current_revision(connection: Connection) -> str | None:
    """Return the revision of the database's schema, None if it has none; raises ForeignSchemaError."""
    inspector = inspect(connection)
    if inspector.has_table(VERSION_TABLE):
        return connection.scalar(select(_version.c.version_num))
    if inspector.has_table(_FOREIGN_VERSION_TABLE):
        raise ForeignSchemaError
    return None


def check(connection: Connection) -> None:
    """Raise SchemaTooOldError if the schema is older than this release needs; a newer schema is allowed."""
    revision = current_revision(connection)
    if revision is None or revision < REVISION:
        raise SchemaTooOldError(revision)
