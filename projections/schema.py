"""The revision of the schema that this code needs, and the check that the database has it."""

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

from projections import registry
from projections.errors import ProjectionsError

REVISION = "0006"
READ_MODELS = tuple(projection.table for projection in registry.PROJECTIONS)

_alembic_version = Table("alembic_version", MetaData(), Column("version_num", Text))


class SchemaTooOldError(ProjectionsError):
    """The database's schema is older than this code needs."""

    def __init__(self, revision: str | None) -> None:
        super().__init__(
            f"the database's schema is {revision or 'missing'}, needed is {REVISION}; run `projector migrate`"
            " (or is this the wrong folder, or DATABASE_URL?)"
        )


def found(connection: Connection) -> str | None:
    """Return the revision of a database's schema; None if it has none."""
    if not inspect(connection).has_table(_alembic_version.name):
        return None
    return connection.scalar(select(_alembic_version.c.version_num))


def check(connection: Connection) -> None:
    """Raise SchemaTooOldError unless the schema is at least as new as this code needs; a newer one is fine."""
    revision = found(connection)
    if revision is None or revision < REVISION:
        raise SchemaTooOldError(revision)
