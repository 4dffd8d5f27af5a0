"""Alembic's environment: runs the pending revisions in one transaction, which Alembic itself begins and commits.

So a revision may leave the transaction with `autocommit_block`, to create an index concurrently or to change many rows.
"""

from alembic import context
from sqlalchemy import Engine, MetaData, Table

import api_stub.auth.keys
import projections.lifecycle.pending_rebuilds
import projections.schema
import projections.transaction.dead_letters
import projections.transaction.deployment_table
from migrations.lock_wait import LockWait
from projections.database.columns import metadata
from projections.database.table_names import schema_name

# Imported so that Alembic's autogenerate knows their tables.
_TABLES = (
    api_stub.auth.keys.table,
    projections.lifecycle.pending_rebuilds.table,
    projections.transaction.dead_letters.table,
    projections.transaction.deployment_table.table,
    *projections.schema.READ_MODELS,
)

_VERSIONS = Table(projections.schema.VERSION_TABLE, MetaData())

engine: Engine = context.config.attributes["engine"]
wait: LockWait = context.config.attributes["wait"]

with engine.connect() as connection:
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=_VERSIONS.name,
        version_table_schema=schema_name(engine.dialect, _VERSIONS),
        transactional_ddl=True,
        render_as_batch=engine.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        wait.limit(connection)
        context.run_migrations()
