"""Whether a connection leads to a standby: a read-only copy of a PostgreSQL server, which lags behind its primary."""

from sqlalchemy import Connection, text

_IS_IN_RECOVERY = text("SELECT pg_is_in_recovery()")


def is_standby(connection: Connection) -> bool:
    """Return whether the server is a standby; SQLite has none."""
    return connection.dialect.name == "postgresql" and bool(connection.execute(_IS_IN_RECOVERY).scalar_one())
