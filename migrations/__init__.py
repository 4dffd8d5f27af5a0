"""The schema's revisions, and the functions that upgrade a database to the newest one."""

from functools import partial
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from migrations.lock_wait import LOCK_WAIT_S, LockWait
from projections import schema
from projections.database.engines import migration_engine
from projections.transaction import checkpoint_table


def config(engine: Engine) -> Config:
    """Return the Alembic configuration for a database."""
    configuration = Config()
    configuration.set_main_option("script_location", str(Path(__file__).parent))
    configuration.attributes["engine"] = engine
    return configuration


def upgrade(configuration: Config, lock_wait_s: float = LOCK_WAIT_S) -> None:
    """Apply the missing revisions, on PostgreSQL each in a transaction of its own.

    Raises MigrationBlockedError if other sessions keep their locks for `lock_wait_s`. Revisions that were applied stay.
    """
    wait = configuration.attributes["wait"] = LockWait(configuration.attributes["engine"], lock_wait_s)
    with wait.one_migration_at_a_time():
        for revision in _missing(configuration):
            wait.retry(partial(command.upgrade, configuration, revision))


def migrate_database(database_url: str, partitions: int, lock_wait_s: float = LOCK_WAIT_S) -> str | None:
    """Upgrade a database and create its checkpoints. Returns its revision, which may be newer than this release's.

    Raises the errors of `upgrade` and `schema.check_encoding`, and PartitionsMismatchError if the database was created
    with another number of partitions.
    """
    engine = migration_engine(database_url)
    try:
        # This release does not know the revisions of a newer schema, and can work with it as it is.
        with engine.connect() as connection:
            schema.check_encoding(connection)
            stored = schema.current_revision(connection)
        if not schema.is_newer(stored):
            upgrade(config(engine), lock_wait_s)
        with engine.begin() as connection:
            checkpoint_table.create_all(connection, partitions)
            return schema.current_revision(connection)
    finally:
        engine.dispose()


def _missing(configuration: Config) -> list[str]:
    """Return the revisions to apply, oldest first. On SQLite, where no reader waits, all are one step."""
    engine: Engine = configuration.attributes["engine"]
    if engine.dialect.name != "postgresql":
        return ["head"]
    with engine.connect() as connection:
        stored = schema.current_revision(connection)
    newest_first = ScriptDirectory.from_config(configuration).iterate_revisions("head", stored or "base")
    return [script.revision for script in newest_first][::-1]
