"""What Alembic runs: all pending revisions in one transaction, one process at a time."""

from typing import Any

from alembic import context
from sqlalchemy import Engine, text

import api_stub.auth.keys
import projections.lifecycle.pending_rebuilds
import projections.schema
from projections.database.columns import metadata

# Imported, so that autogenerate sees their tables.
_TABLES = (api_stub.auth.keys.table, projections.lifecycle.pending_rebuilds.table, *projections.schema.READ_MODELS)

engine: Engine = context.config.attributes["engine"]
MIGRATION_LOCK = 0x50524F4A  # any number that nobody else on the database uses: "PROJ"

with engine.connect() as connection, connection.begin():
    # SQLite's transactions are exclusive from their start.
    if engine.dialect.name == "postgresql":
        # A migration may wait for another one, and take long; a drain's timeouts are not for it.
        for timeout in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {timeout} = 0"))
        driver: Any = connection.connection.driver_connection
        driver.answer_within_s = None
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=projections.schema.VERSION_TABLE,
        transactional_ddl=True,
        render_as_batch=engine.dialect.name == "sqlite",
    )
    context.run_migrations()
