"""The revision of the schema that this code needs, and the check that the database has it."""

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

from projections.errors import ProjectionsError
from projections.read_models import registry

REVISION = "0001"
VERSION_TABLE = "projector_schema_version"  # not Alembic's default, which another application may use
READ_MODELS = tuple(projection.table for projection in registry.PROJECTIONS)

_version = Table(VERSION_TABLE, MetaData(), Column("version_num", Text))
_FOREIGN_VERSION_TABLE = "alembic_version"


class SchemaTooOldError(ProjectionsError):
    """The database's schema is older than this code needs."""

    def __init__(self, revision: str | None) -> None:
        super().__init__(
            f"the database's schema is {revision or 'missing'}, needed is {REVISION}; run `projector migrate`"
            " (or is this the wrong folder, or DATABASE_URL?)"
        )


class ForeignSchemaError(ProjectionsError):
    """The tables in the database were made by another application, or by a version from before the first release."""

    def __init__(self) -> None:
        super().__init__(
            f"the database has a table {_FOREIGN_VERSION_TABLE}, so it belongs to another application or to a version"
            " of the projector from before its first release, and cannot be upgraded; set DATABASE_URL to a new"
            " database, run `projector migrate`, and append the events again"
        )


def found(connection: Connection) -> str | None:
    """Return the revision of a database's schema, None if it has none; raises ForeignSchemaError."""
    inspector = inspect(connection)
    if inspector.has_table(VERSION_TABLE):
        return connection.scalar(select(_version.c.version_num))
    if inspector.has_table(_FOREIGN_VERSION_TABLE):
        raise ForeignSchemaError
    return None


def check(connection: Connection) -> None:
    """Raise SchemaTooOldError unless the schema is at least as new as this code needs; a newer one is fine."""
    revision = found(connection)
    if revision is None or revision < REVISION:
        raise SchemaTooOldError(revision)
