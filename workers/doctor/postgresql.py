"""Checks of PostgreSQL: it keeps what it commits, it accepts writes, and no session blocks the others."""

from collections.abc import Iterator

from event_stream.plurals import counted
from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context


@error_check(
    "postgres-fsync-off",
    Subject.POSTGRESQL,
    "G1",
    meaning="PostgreSQL never syncs to disk. A crash of the machine may corrupt the event log and the read models.",
    remedy="`ALTER SYSTEM SET fsync = on`, then `SELECT pg_reload_conf()`; also remove `-c fsync=off` from its command"
    " line",
)
def fsync_off(context: Context) -> Iterator[Observation]:
    """Check whether PostgreSQL syncs to disk."""
    yield from _is_off("fsync", context)


@error_check(
    "postgres-full-page-writes-off",
    Subject.POSTGRESQL,
    "G1",
    meaning="A page that is only half written when the machine crashes cannot be restored. The event log may then be"
    " corrupt.",
    remedy="`ALTER SYSTEM SET full_page_writes = on`, then `SELECT pg_reload_conf()`",
)
def full_page_writes_off(context: Context) -> Iterator[Observation]:
    """Check whether whole pages are written to the write-ahead log."""
    yield from _is_off("full_page_writes", context)


@warning_check(
    "postgres-synchronous-commit-off",
    Subject.POSTGRESQL,
    "G1",
    meaning="A crash of the database loses its last commits. Their entries are read again, because streams are trimmed"
    " only 60 s after the commit. But producers that waited for them were notified too early, and a new API key may be"
    " lost.",
    remedy="`ALTER DATABASE {database} RESET synchronous_commit`, or reset it where it is set (role, configuration"
    " file)",
)
def synchronous_commit_off(context: Context) -> Iterator[Observation]:
    """Check whether a commit waits for the disk."""
    values = {"database": context.scalar("SELECT current_database()")}
    for observation in _is_off("synchronous_commit", context):
        yield Observation(observation.message, values)


def _is_off(setting: str, context: Context) -> Iterator[Observation]:
    value = context.scalar("SELECT current_setting(:setting)", setting=setting)
    if value == "off":
        yield Observation(f"{setting} is {value}")


@error_check(
    "postgres-encoding",
    Subject.POSTGRESQL,
    "G1",
    meaning="The database's encoding cannot store every character. An event with such a character becomes a dead letter"
    " (`fold_failed`), and `SQL_ASCII` checks no text at all.",
    remedy="`CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`, and copy the data into it (`pg_dump`)",
)
def encoding(context: Context) -> Iterator[Observation]:
    """Check whether the database is in UTF-8."""
    found = context.scalar("SHOW server_encoding")
    if found != "UTF8":
        yield Observation(f"server_encoding is {found}")


@error_check(
    "postgres-read-only",
    Subject.POSTGRESQL,
    "G7",
    meaning="The database is configured to accept no writes, so nothing is projected.",
    remedy="`ALTER DATABASE {database} RESET default_transaction_read_only`, or reset it where it is set (role,"
    " configuration file)",
)
def read_only(context: Context) -> Iterator[Observation]:
    """Check whether a primary is configured to be read-only."""
    is_read_only = context.scalar("SELECT current_setting('transaction_read_only')") == "on"
    if is_read_only and not context.scalar("SELECT pg_is_in_recovery()"):
        values = {"database": context.scalar("SELECT current_database()")}
        yield Observation("default_transaction_read_only is on", values)


@warning_check(
    "postgres-standby",
    Subject.POSTGRESQL,
    meaning="The database is a standby, which copies a primary. An API can read there, but answers, new keys and"
    " revoked keys are as old as the copy. Nothing can be written there.",
    remedy="for an API process this is allowed (docs/how-to/deploy.md#read-from-a-standby); for workers, dispatchers"
    " and commands that write, point DATABASE_URL at the primary",
)
def standby(context: Context) -> Iterator[Observation]:
    """Check whether the server is a standby."""
    if context.scalar("SELECT pg_is_in_recovery()"):
        replayed = context.scalar("SELECT date_trunc('second', pg_last_xact_replay_timestamp())")
        yield Observation(f"it is a standby; its last transaction was committed at {replayed or 'an unknown time'}")


@error_check(
    "postgres-transaction-left-open",
    Subject.POSTGRESQL,
    "G8",
    meaning="A session keeps a transaction open without doing anything. Meanwhile, dead versions of hot rows cannot be"
    " removed, and the rows that it has locked stay locked.",
    remedy="end the transaction in its application, or `SELECT pg_terminate_backend({pid})`; to prevent it, set"
    " `idle_in_transaction_session_timeout` for its role",
)
def transaction_left_open(context: Context) -> Iterator[Observation]:
    """Look for sessions that are idle in an old transaction."""
    for pid, user, application, open_s in context.rows(
        "SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - xact_start)::float8"
        " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state LIKE 'idle in transaction%'"
        " AND clock_timestamp() - xact_start > make_interval(secs => :open_s)",
        open_s=context.limits.transaction_open_s,
    ):
        name = f" ({application})" if application else ""
        yield Observation(f"process {pid} of {user}{name} has been in a transaction for {open_s:.0f} s", {"pid": pid})


@warning_check(
    "postgres-sessions-hidden",
    Subject.POSTGRESQL,
    "G8",
    meaning="The activity of other users' sessions is hidden from this user. A transaction that one of them leaves open"
    " is not reported.",
    remedy="`GRANT pg_read_all_stats TO {user}`",
)
def sessions_hidden(context: Context) -> Iterator[Observation]:
    """Count the sessions whose activity is hidden."""
    hidden = context.scalar(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query = '<insufficient privilege>'"
    )
    if hidden:
        yield Observation(
            f"{counted(hidden, 'session')} of other users", {"user": context.scalar("SELECT current_user")}
        )
