"""Alembic's environment: runs all pending revisions in one transaction, one process at a time."""

from typing import Any

from alembic import context
from sqlalchemy import Engine, text

import api_stub.auth.keys
import projections.lifecycle.pending_rebuilds
import projections.schema
from projections.database.columns import metadata

# Imported so that Alembic's autogenerate knows their tables.
_TABLES = (api_stub.auth.keys.table, projections.lifecycle.pending_rebuilds.table, *projections.schema.READ_MODELS)

engine: Engine = context.config.attributes["engine"]
MIGRATION_LOCK = 0x50524F4A  # "PROJ"; any number that no other application on the database uses

with engine.connect() as connection, connection.begin():
    # SQLite needs no lock: its transactions are exclusive from the start.
    if engine.dialect.name == "postgresql":
        # The timeouts are meant for drains. A migration may take long, or wait for another one.
        for timeout in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout"):
            connection.execute(text(f"SET LOCAL {timeout} = 0"))
        driver: Any = connection.connection.driver_connection
        driver.answer_timeout_s = None
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=projections.schema.VERSION_TABLE,
        transactional_ddl=True,
        render_as_batch=engine.dialect.name == "sqlite",
    )
    context.run_migrations()
