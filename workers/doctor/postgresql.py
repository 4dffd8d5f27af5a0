"""Checks of PostgreSQL: does it keep what it acknowledges, can it be written to, does anybody hold it up."""

from collections.abc import Iterator

from workers.doctor.check import Checker, Observation, Side
from workers.doctor.context import Context

postgresql = Checker(Side.POSTGRESQL)


@postgresql.danger(
    "postgres-fsync-off",
    "G1",
    means="PostgreSQL never syncs: a crash of the machine may leave the event log and the read models corrupt.",
    remedy="`ALTER SYSTEM SET fsync = on`, then `SELECT pg_reload_conf()`; mind `-c fsync=off` where it is started",
)
def no_fsync(patient: Context) -> Iterator[Observation]:
    """See whether it syncs."""
    yield from _is_off("fsync", patient)


@postgresql.danger(
    "postgres-full-page-writes-off",
    "G1",
    means="A page that a crash of the machine cut in half cannot be restored: the event log may end up corrupt.",
    remedy="`ALTER SYSTEM SET full_page_writes = on`, then `SELECT pg_reload_conf()`",
)
def no_full_page_writes(patient: Context) -> Iterator[Observation]:
    """See whether whole pages go to its log."""
    yield from _is_off("full_page_writes", patient)


@postgresql.advice(
    "postgres-synchronous-commit-off",
    "G1",
    means="A crash of the database loses its last commits. Their entries are read again, as streams are trimmed 60 s"
    " behind, but producers that waited for them were told too early, and a new API key may be gone.",
    remedy="`ALTER DATABASE {database} RESET synchronous_commit`, or wherever it is off (role, configuration file)",
)
def no_synchronous_commit(patient: Context) -> Iterator[Observation]:
    """See whether a commit waits for the disk."""
    values = {"database": patient.scalar("SELECT current_database()")}
    for seen in _is_off("synchronous_commit", patient):
        yield Observation(seen.text, values)


def _is_off(setting: str, patient: Context) -> Iterator[Observation]:
    value = patient.scalar("SELECT current_setting(:setting)", setting=setting)
    if value == "off":
        yield Observation(f"{setting} is {value}")


@postgresql.danger(
    "postgres-read-only",
    "G7",
    means="The database takes no writes: nothing is projected.",
    remedy="point DATABASE_URL at the primary; if this is it, `ALTER DATABASE {database} RESET"
    " default_transaction_read_only`",
)
def read_only(patient: Context) -> Iterator[Observation]:
    """See whether it is a standby, or told to take no writes."""
    if patient.scalar("SELECT current_setting('transaction_read_only')") == "on":
        standby = patient.scalar("SELECT pg_is_in_recovery()")
        why = "it is a standby" if standby else "default_transaction_read_only is on"
        yield Observation(why, {"database": patient.scalar("SELECT current_database()")})


@postgresql.danger(
    "postgres-transaction-left-open",
    "G8",
    means="A session began a transaction, and has done nothing for a while but keep it: dead versions of hot rows"
    " cannot be removed meanwhile, and what it has locked stays locked.",
    remedy="end the transaction in its application, or `SELECT pg_terminate_backend({pid})`; an"
    " `idle_in_transaction_session_timeout` for its role keeps it from coming back",
)
def transaction_left_open(patient: Context) -> Iterator[Observation]:
    """Look for sessions that are idle in an old transaction."""
    for pid, user, application, open_s in patient.rows(
        "SELECT pid, usename, application_name, extract(epoch FROM clock_timestamp() - xact_start)::float8"
        " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state LIKE 'idle in transaction%'"
        " AND clock_timestamp() - xact_start > make_interval(secs => :left_open_s)",
        left_open_s=patient.limits.left_open_s,
    ):
        name = f" ({application})" if application else ""
        yield Observation(f"process {pid} of {user}{name} has been in a transaction for {open_s:.0f} s", {"pid": pid})


@postgresql.advice(
    "postgres-sessions-hidden",
    "G8",
    means="We may not see what other users' sessions do, so a transaction that one of them leaves open is not told.",
    remedy="`GRANT pg_read_all_stats TO {user}`",
)
def sessions_hidden(patient: Context) -> Iterator[Observation]:
    """Count the sessions whose state is kept from us."""
    hidden = patient.scalar(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND query = '<insufficient privilege>'"
    )
    if hidden:
        yield Observation(f"{hidden} sessions of other users", {"user": patient.scalar("SELECT current_user")})


@postgresql.advice(
    "postgres-clock-differs",
    means="PostgreSQL's clock and this host's differ by more than 5 s: its logs cannot be laid beside ours.",
    remedy="let both hosts follow the same time servers (chrony, systemd-timesyncd)",
)
def clock_off(patient: Context) -> Iterator[Observation]:
    """Compare its clock with ours."""
    skew_s = patient.skew_s(lambda: float(patient.scalar("SELECT extract(epoch FROM clock_timestamp())")))
    if abs(skew_s) > patient.limits.clock_off_s:
        yield Observation(f"PostgreSQL's clock is {skew_s:+.1f} s from this host's")
