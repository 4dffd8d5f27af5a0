"""The names of our tables in SQL: on PostgreSQL with the schema of the engine, so that no `search_path` matters.

docs/decisions/0057-every-statement-names-its-schema.md
"""

from zlib import crc32

from sqlalchemy import URL, Dialect, Table

from projections.settings import DEFAULT_SCHEMA, SCHEMA_PARAMETER


def use_schema(dialect: Dialect, url: URL) -> None:
    """Make a dialect of PostgreSQL put the URL's schema before the name of each table that has none of its own."""
    schema = str(url.query.get(SCHEMA_PARAMETER, DEFAULT_SCHEMA))

    def schema_of_table(selectable: object) -> str | None:
        return (selectable.schema or schema) if isinstance(selectable, Table) else None

    # SQLAlchemy's own schema_translate_map replaces the same attribute.
    dialect.identifier_preparer.schema_for_object = schema_of_table  # type: ignore[assignment]


def qualified(dialect: Dialect, table: Table) -> str:
    """Return a table's name as it is written in SQL."""
    return dialect.identifier_preparer.format_table(table)


def schema_name(dialect: Dialect, table: Table) -> str | None:
    """Return the schema that holds a table; None on SQLite."""
    return dialect.identifier_preparer.schema_for_object(table)


def lock_number(schema: str) -> int:
    """Return a signed 32-bit number for a schema, for advisory locks that two schemas do not share."""
    return crc32(schema.encode()) - 2**31
