"""The table `deployment`: the id of the deployment that this database belongs to, in one row.

docs/decisions/0054-tie-redis-to-its-database.md
"""

import sqlite3
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
from sqlalchemy import Column, Connection, Engine, Integer, Table, Text, event, select
from sqlalchemy.exc import ProgrammingError

from event_stream.streams.deployment import DeploymentPin
from projections.database.bulk import dialect_insert
from projections.database.columns import metadata
from projections.database.table_names import qualified, schema_name

table = Table(
    "deployment",
    metadata,
    Column("only_row", Integer, primary_key=True, autoincrement=False),
    Column("deployment_id", Text, nullable=False),
)
_POSTGRESQL_SERVER = "SELECT system_identifier::text || '/' || current_database() FROM pg_control_system()"


@dataclass(frozen=True, slots=True)
class DatabaseDeployment:
    """What the database knows: the id of its deployment, what tells the database from a copy, and where it is."""

    deployment_id: str | None
    server: str | None
    place: str


def read_deployment(connection: Connection) -> DatabaseDeployment:
    """Return what the database knows about its deployment."""
    return DatabaseDeployment(read(connection), database_server(connection), database_place(connection.engine))


def read(connection: Connection) -> str | None:
    """Return the id of the deployment that the database belongs to; None before its first start."""
    return connection.scalar(select(table.c.deployment_id))


def create(connection: Connection, deployment_id: str | None = None) -> str:
    """Return the stored id; if there is none, store `deployment_id`, or a new one. Concurrent calls return one id."""
    row = {"only_row": 1, "deployment_id": deployment_id or str(uuid4())}
    connection.execute(dialect_insert(connection, table).values(row).on_conflict_do_nothing())
    stored: str = connection.scalars(select(table.c.deployment_id)).one()
    return stored


def replace(connection: Connection) -> str:
    """Give the database a new id, and return it."""
    connection.execute(table.delete())
    return create(connection)


def database_server(connection: Connection) -> str | None:
    """Return what tells this database from a copy of it: the server's identifier, and names of database and schema.

    A copy made by PostgreSQL's replication has the same identifier, and another file of SQLite has another inode.
    Returns None where it cannot be known, such as in a service that hides PostgreSQL's control data.
    """
    if connection.dialect.name == "sqlite":
        file = connection.exec_driver_sql("PRAGMA database_list").all()[0][2]
        return f"sqlite/{Path(file).stat().st_ino}" if file else None
    with suppress(ProgrammingError):  # the function is missing, or denied
        server = connection.exec_driver_sql(_POSTGRESQL_SERVER).scalar_one()
        return f"postgresql/{server}/{schema_name(connection.dialect, table)}"
    return None


def pin(engine: Engine, to: DeploymentPin) -> None:
    """Make the engine refuse a new connection that leads to the database of another deployment."""
    place = database_place(engine)
    query = f"SELECT deployment_id FROM {qualified(engine.dialect, table)}"

    def check(connection: Any, _record: object) -> None:
        try:
            to.check(_read_from_driver(connection, query), place)
        except BaseException:
            connection.close()  # the pool would not close it
            raise

    event.listen(engine, "connect", check)


def database_place(engine: Engine) -> str:
    """Return where a database is, without secrets."""
    url = engine.url
    if url.get_backend_name() == "sqlite":
        return f"the database {url.database}"
    host = url.host or url.query.get("host", "")
    return f"the database {url.database} at {host}{f':{url.port}' if url.port else ''}"


def _read_from_driver(connection: Any, query: str) -> str | None:
    if isinstance(connection, sqlite3.Connection):
        try:
            found = connection.execute(query).fetchone()
        except sqlite3.OperationalError:  # the schema does not exist yet
            return None
        return found[0] if found else None
    before, connection.autocommit = connection.autocommit, True
    try:
        found = connection.execute(query).fetchone()
    except psycopg.errors.UndefinedTable:
        return None
    finally:
        if not connection.closed:
            connection.autocommit = before
    return found[0] if found else None
