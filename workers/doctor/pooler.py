"""Checks for a connection pooler before PostgreSQL, such as PgBouncer (docs/how-to/deploy.md#pgbouncer)."""

from collections.abc import Iterator
from contextlib import contextmanager

from psycopg import Connection as DriverConnection
from psycopg.errors import DuplicatePreparedStatement, InvalidSqlStatementName
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from projections.database.postgresql_engine import SESSION
from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context

ROUNDS = 10  # other clients may take the pooler's sessions in between
_LIMITS = ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout")
_NEVER, _AT_ONCE = None, 0  # when psycopg prepares a statement


@error_check(
    "postgres-prepared-statements-fail",
    Subject.POSTGRESQL,
    "G7",
    meaning="A pooler such as PgBouncer shares sessions between clients and does not keep their prepared statements"
    " apart. Drains fail with `DuplicatePreparedStatement`, and many reads get 503.",
    remedy="connect directly; or set `max_prepared_statements = 200` (PgBouncer 1.21 or newer), or `pool_mode ="
    " session`: docs/how-to/deploy.md#pgbouncer",
)
def prepared_statements_fail(context: Context) -> Iterator[Observation]:
    """Prepare statements on two connections in turn, which use the same names for them."""
    with _two_connections(context, _AT_ONCE) as connections:
        for number in range(ROUNDS):
            for connection in connections:
                try:
                    connection.execute(text(f"SELECT {number}"))
                except DBAPIError as error:
                    if not isinstance(error.orig, DuplicatePreparedStatement | InvalidSqlStatementName):
                        raise
                    yield Observation(str(error.orig))
                    return


@warning_check(
    "postgres-transaction-pooling",
    Subject.POSTGRESQL,
    meaning="A pooler such as PgBouncer may give each transaction another session (`pool_mode = transaction`). The"
    " projector works there only if the pooler keeps the prepared statements of its clients apart, and if the role has"
    " the session limits.",
    remedy="connect directly, or follow docs/how-to/deploy.md#pgbouncer",
)
def transaction_pooling(context: Context) -> Iterator[Observation]:
    """Use two open connections in turn, and compare the processes of PostgreSQL that answer."""
    with _two_connections(context, _NEVER) as connections:
        rounds = [[each.scalar(text("SELECT pg_backend_pid()")) for each in connections] for _ in range(ROUNDS)]
    first, second = (set(pids) for pids in zip(*rounds, strict=True))
    if first & second:
        yield Observation(f"process {min(first & second)} of PostgreSQL answers on two connections")
    elif len(first) + len(second) > 2:
        yield Observation("different processes of PostgreSQL answer on one connection")


@warning_check(
    "postgres-session-limits-ignored",
    Subject.POSTGRESQL,
    "G7",
    meaning="The time limits that every session sends as `options` are not in force. A pooler such as PgBouncer drops"
    " them if `ignore_startup_parameters` names `options`. A paused drain may then hold its partition for longer.",
    remedy="connect directly, or `ALTER ROLE {user} IN DATABASE {database} SET {setting} = '{limit}'` and reconnect the"
    " pooler",
)
def session_limits_ignored(context: Context) -> Iterator[Observation]:
    """Compare the limits of a session with those that it was opened with. The role may have lower ones."""
    user, database = context.rows("SELECT current_user, current_database()")[0]
    for setting in _LIMITS:
        limit = SESSION[setting]
        found, is_in_force = context.rows(
            "SELECT current_setting(name),"
            " setting::bigint BETWEEN 1 AND 1000 * extract(epoch FROM CAST(:limit AS interval))"
            " FROM pg_settings WHERE name = :setting",
            setting=setting,
            limit=limit,
        )[0]
        if not is_in_force:
            values = {"user": user, "database": database, "setting": setting, "limit": limit}
            yield Observation(f"{setting} is {found}, not {limit}", values)


@warning_check(
    "postgres-plan-settings-ignored",
    Subject.POSTGRESQL,
    meaning="The settings that prevent reads from scanning whole tables are not in force, because a pooler such as"
    " PgBouncer drops `options`. A read of the API may become slow as the tables grow.",
    remedy="let the API connect directly; workers and dispatchers may use the pooler",
)
def plan_settings_ignored(context: Context) -> Iterator[Observation]:
    """Check a setting that every session that reads is opened with."""
    found = context.scalar("SHOW enable_seqscan")
    if found != "off":
        yield Observation(f"enable_seqscan is {found} in a session that was opened with off")


@contextmanager
def _two_connections(context: Context, prepare_threshold: int | None) -> Iterator[tuple[Connection, Connection]]:
    """Open two connections at the same time, which send each statement outside a transaction."""
    reader = context.runtime.reader
    with reader.connect() as first, reader.connect() as second:
        drivers = [each.connection.driver_connection for each in (first, second)]
        for driver in drivers:
            assert isinstance(driver, DriverConnection)
            driver.prepare_threshold = prepare_threshold
        try:
            yield first, second
        finally:
            first.invalidate()  # the pool replaces them by connections with the usual threshold
            second.invalidate()
