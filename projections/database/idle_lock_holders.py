"""Ends sessions that sleep while they hold a claim, where PostgreSQL's own limits do not reach."""

from psycopg.errors import LockNotAvailable
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

# The limit for idle transactions does not look at a session that waits for the rest of a COPY; nor at one in a
# pipeline, or, until its next statement, out of one again, which is how psycopg sends an executemany. So whoever waits
# for a claim in vain looks: at those who lock checkpoints and have waited for their own client for longer than that.
_END_SLEEPERS = text("""
    SELECT count(pg_terminate_backend(pid))
    FROM pg_stat_activity JOIN pg_locks USING (pid)
    WHERE relation = 'checkpoint'::regclass AND mode = 'RowShareLock' AND granted
      AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
      AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '10 s'
""")


def end_idle_lock_holders(engine: Engine, error: DBAPIError) -> None:
    """End whoever sleeps on a claim, if `error` says that a lock could not be had; their transactions roll back."""
    if isinstance(error.orig, LockNotAvailable):
        with engine.begin() as connection:
            connection.execute(_END_SLEEPERS)
