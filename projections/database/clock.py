"""The database's clock."""

from sqlalchemy import Connection, text

# SQLite has no clock of its own: this is the clock of the machine.
_QUERIES = {
    "postgresql": "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint",
    "sqlite": "SELECT CAST((julianday('now') - julianday('1970-01-01')) * 86400000 AS INTEGER)",
}


def read_clock_ms(connection: Connection) -> int:
    """Return the database's time in milliseconds since 1970 UTC."""
    return int(connection.execute(text(_QUERIES[connection.dialect.name])).scalar_one())
