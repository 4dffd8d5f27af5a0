"""Ends idle sessions that hold a claim, in states that PostgreSQL's own timeouts do not cover."""

from psycopg.errors import LockNotAvailable
from sqlalchemy import Engine, Table, text
from sqlalchemy.exc import DBAPIError

from projections.database.table_names import qualified

# idle_in_transaction_session_timeout does not apply to a session that waits for the rest of a COPY, or that is in
# pipeline mode, which psycopg also uses for executemany. So a process that does not get a claim ends the sessions that
# hold a row lock on `checkpoint` and have waited for their client for longer than that timeout.
_TERMINATE = text("""
    SELECT count(pg_terminate_backend(pid))
    FROM pg_stat_activity JOIN pg_locks USING (pid)
    WHERE relation = to_regclass(:checkpoint) AND mode = 'RowShareLock' AND granted
      AND datname = current_database() AND usename = current_user AND pid <> pg_backend_pid()
      AND wait_event = 'ClientRead' AND state_change < clock_timestamp() - interval '10 s'
""")


def end_idle_lock_holders(engine: Engine, checkpoint: Table, error: DBAPIError) -> None:
    """End idle sessions that hold a row lock on `checkpoint`, if `error` is a lock timeout. They roll back."""
    if isinstance(error.orig, LockNotAvailable):
        with engine.begin() as connection:
            connection.execute(_TERMINATE, {"checkpoint": qualified(engine.dialect, checkpoint)})
