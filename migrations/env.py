"""What Alembic runs: all pending revisions in one transaction, one process at a time."""

from alembic import context
from sqlalchemy import Engine, text

import projections.schema

engine: Engine = context.config.attributes["engine"]
MIGRATION_LOCK = 0x50524F4A  # any number that nobody else on the database uses: "PROJ"

with engine.connect() as connection, connection.begin():
    # SQLite's transactions are exclusive from their start.
    if engine.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        connection.execute(text("SET LOCAL lock_timeout = '60s'"))
    context.configure(
        connection=connection,
        target_metadata=projections.schema.metadata,
        transactional_ddl=True,
        render_as_batch=engine.dialect.name == "sqlite",
    )
    context.run_migrations()
