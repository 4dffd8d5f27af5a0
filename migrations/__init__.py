"""The schema's revisions, and the functions that upgrade a database to the newest one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Engine

from projections import schema
from projections.database.engines import writer_engine
from projections.transaction import checkpoint_table


def config(engine: Engine) -> Config:
    """Return the Alembic configuration for a database."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    configuration.attributes["engine"] = engine
    return configuration


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Create or upgrade the schema in one transaction. A concurrent upgrade waits, and then has nothing to do."""
    command.upgrade(config(engine), revision)


def migrate_database(database_url: str, partitions: int) -> str | None:
    """Upgrade a database and create its checkpoints. Returns its revision, which may be newer than this release's.

    Raises PartitionsMismatchError if the database was created with another number of partitions.
    """
    engine = writer_engine(database_url)
    try:
        # This release does not know the revisions of a newer schema, and can work with it as it is.
        with engine.connect() as connection:
            stored = schema.current_revision(connection)
        if stored is None or stored <= schema.REVISION:
            upgrade(engine)
        with engine.begin() as connection:
            checkpoint_table.create_all(connection, partitions)
            return schema.current_revision(connection)
    finally:
        engine.dispose()
