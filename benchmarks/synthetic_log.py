"""Databases with an event log of any length and its read models, filled by SQL without the projector."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

import psycopg

from benchmarks.sandbox import Sandbox, migrate
from benchmarks.synthetic_log_sql import BULK_SETTINGS, EVENT_LOG, READ_MODELS
from benchmarks.workloads import TENANTS
from projections.read_models.registry import PROJECTIONS
from projections.transaction import projection_state

_numbers = count(1)


@dataclass(frozen=True, slots=True)
class SyntheticLog:
    """The size of an event log. The share `hot` of its events belongs to the first project."""

    events: int
    projects: int
    hot: float = 0.0

    def tenant(self, project: int) -> str:
        """Return the tenant of a project. Projects are numbered from 0."""
        return f"ten_{project % TENANTS}"

    def project_id(self, project: int) -> str:
        """Return the id of a project."""
        return f"00000000-0000-4000-8000-{project:012x}"


@contextmanager
def database_with_log(sandbox: Sandbox, log: SyntheticLog) -> Iterator[str]:
    """Create a database with an event log and empty read models. Yields its name, for use as a template."""
    name = f"synthetic_log_{next(_numbers)}"
    sandbox.postgres.execute(f"CREATE DATABASE {name}")
    try:
        migrate(sandbox.postgres.url(name))
        with psycopg.connect(sandbox.postgres.url(name), autocommit=True) as connection:
            _fill_log(connection, log)
        yield name
    finally:
        sandbox.postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def database_with_read_models(sandbox: Sandbox, log: SyntheticLog) -> Iterator[str]:
    """Create a database with an event log and its read models. Yields its URL."""
    with database_with_log(sandbox, log) as name:
        url = sandbox.postgres.url(name)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(BULK_SETTINGS)
            for statement in READ_MODELS:
                connection.execute(statement.format().encode())
            connection.execute("VACUUM ANALYZE")
        yield url


def _fill_log(connection: psycopg.Connection, log: SyntheticLog) -> None:
    """Fill the log without its keys and create them afterwards, which is much faster for millions of rows."""
    connection.execute(BULK_SETTINGS)
    connection.execute("ALTER TABLE event_log DROP CONSTRAINT event_log_pkey")
    connection.execute("DROP INDEX event_log_by_number")
    text = EVENT_LOG.format(
        tenants=TENANTS,
        projects=log.projects,
        hot=log.hot,
        events=log.events,
        now_us="extract(epoch FROM date_trunc('second', now()))::bigint * 1000000",
    )
    connection.execute(text.encode())
    connection.execute("ALTER TABLE event_log ADD PRIMARY KEY (tenant_id, event_id)")
    connection.execute("CREATE UNIQUE INDEX event_log_by_number ON event_log (partition, number)")
    line = projection_state.dump(projection_state.expected_states(PROJECTIONS))
    connection.execute("INSERT INTO projection_version SELECT DISTINCT tenant_id, %s FROM event_log", (line,))
    # Count these events as applied from an earlier stream, so that events drained later get higher numbers.
    connection.execute(
        "UPDATE checkpoint SET read = %(events)s, applied = %(events)s, added_offset = %(events)s WHERE partition = 0",
        {"events": log.events},
    )
    connection.execute("VACUUM ANALYZE event_log")
