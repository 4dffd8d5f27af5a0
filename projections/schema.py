"""All tables in one place, for migrations and checks, and the revision of the schema that this code needs."""

from sqlalchemy import Column, Connection, MetaData, Table, Text, select
from sqlalchemy.exc import OperationalError, ProgrammingError

from projections import checkpoint, dead_letters, event_log, registry
from projections.errors import ProjectionsError
from projections.store import metadata as _metadata

REVISION = "0002"

metadata: MetaData = _metadata
TABLES = (
    event_log.table,
    checkpoint.table,
    dead_letters.table,
    *(projection.table for projection in registry.PROJECTIONS),
)

_alembic_version = Table("alembic_version", MetaData(), Column("version_num", Text))


class SchemaTooOldError(ProjectionsError):
    """The database's schema is older than this code needs."""

    def __init__(self, found: str | None) -> None:
        super().__init__(
            f"the database's schema is {found or 'missing'}, needed is {REVISION}; run `projector migrate`"
        )


def check(connection: Connection) -> None:
    """Raise SchemaTooOldError unless the schema is at least as new as this code needs; a newer one is fine."""
    try:
        found = connection.scalar(select(_alembic_version.c.version_num))
    except (OperationalError, ProgrammingError) as error:
        if "alembic_version" not in str(error.orig):
            raise
        found = None
    if found is None or found < REVISION:
        raise SchemaTooOldError(found)
