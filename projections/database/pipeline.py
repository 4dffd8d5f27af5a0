"""Execute SQLAlchemy's statements directly with psycopg, alone or in pipeline mode (`pipelined`).

For a few rows, SQLAlchemy's overhead takes longer than PostgreSQL's work, and so does waiting for each result one by
one (docs/decisions/0020-pipeline-small-batches.md). On SQLite, SQLAlchemy executes the statements.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import psycopg
from sqlalchemy import Connection, Dialect, Executable, Select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from projections.database.columns import Row

_PIPELINE = "pipeline"  # the key in a connection's `info`

Converter: TypeAlias = Callable[[Any], Any]


class Query(NamedTuple):
    """A statement, which is compiled once and kept, and the parameters for one execution."""

    statement: Select[Any]
    parameters: Mapping[str, Any]


@contextmanager
def pipelined(connection: Connection) -> Iterator[None]:
    """In this block, send statements to PostgreSQL without waiting for results, except in `fetch`.

    The error of a statement may be raised by a later one, by the commit, or at the end of the block. In the block, read
    rows only with `fetch` or `iter_fetch`, and use no COPY.
    """
    if connection.dialect.name != "postgresql":
        yield
        return
    info = connection.info
    with _raising_as_sqlalchemy(connection), _driver(connection).pipeline() as pipeline:
        info[_PIPELINE] = pipeline
        try:
            yield
        finally:
            del info[_PIPELINE]


def fetch(connection: Connection, *queries: Query | None) -> list[Sequence[Row]]:
    """Return the rows of each query, in order; no rows for None."""
    return list(iter_fetch(connection, *queries))


def iter_fetch(connection: Connection, *queries: Query | None) -> Iterator[Sequence[Row]]:
    """Yield the rows of each query. In `pipelined`, all queries are sent at once; elsewhere one after the other."""
    if connection.dialect.name != "postgresql":
        for query in queries:
            yield connection.execute(*query).all() if query else []
        return
    with _raising_as_sqlalchemy(connection):
        results: Iterable[Callable[[], Sequence[Row]] | None]
        results = (_send(connection, query) if query else None for query in queries)
        if _PIPELINE in connection.info and any(results := [*results]):
            # A fetch alone only flushes. Without a sync, idle_in_transaction_session_timeout does not apply.
            connection.info[_PIPELINE].sync()
        for result in results:
            yield result() if result else []


def execute(connection: Connection, statement: Executable, parameters: Mapping[str, Any]) -> None:
    """Execute a statement that returns no rows. It is compiled once and kept."""
    if connection.dialect.name != "postgresql":
        connection.execute(statement, parameters)
        return
    with _raising_as_sqlalchemy(connection):
        _compile(statement, connection.dialect).send(connection, parameters)


def execute_driver_sql(connection: Connection, text: str, parameters: Sequence[Any]) -> None:
    """Execute a statement that returns no rows, written with psycopg's placeholders."""
    with _raising_as_sqlalchemy(connection):
        _execute(connection, text, parameters)


def _send(connection: Connection, query: Query) -> Callable[[], Sequence[Row]]:
    """Send a query; return the function that reads its rows."""
    compiled = _compile(query.statement, connection.dialect)
    cursor = compiled.send(connection, query.parameters)
    return lambda: compiled.convert_rows(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """A statement for psycopg: its text, fixed parameters, and converters between SQLAlchemy's and psycopg's values."""

    text: str
    parameters: Mapping[str, Any]
    to_driver: Mapping[str, Converter]
    from_driver: Sequence[Converter | None]

    def send(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """Send the statement and return its cursor."""
        values = {**self.parameters, **parameters}
        for name, convert in self.to_driver.items():
            values[name] = convert(values[name])
        return _execute(connection, self.text, values)

    def convert_rows(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return psycopg's rows with the values of SQLAlchemy's types."""
        if not any(self.from_driver):
            return rows
        return [
            tuple(
                value if convert is None else convert(value)
                for convert, value in zip(self.from_driver, row, strict=True)
            )
            for row in rows
        ]


@cache
def _compile(statement: Any, dialect: Dialect) -> CompiledStatement:
    compiled = statement.compile(dialect=dialect)
    to_driver = {
        name: _dialect_type(bind.type, dialect).bind_processor(dialect) for name, bind in compiled.binds.items()
    }
    columns = statement.selected_columns if isinstance(statement, Select) else ()
    return CompiledStatement(
        text=str(compiled),
        parameters=compiled.params,
        to_driver={name: convert for name, convert in to_driver.items() if convert},
        from_driver=[_dialect_type(column.type, dialect).result_processor(dialect, None) for column in columns],
    )


def _dialect_type(kind: TypeEngine[Any], dialect: Dialect) -> Any:
    return kind.dialect_impl(dialect)


@contextmanager
def _raising_as_sqlalchemy(connection: Connection) -> Iterator[None]:
    """Raise psycopg's errors as SQLAlchemy's DBAPIError, so that callers handle one kind."""
    try:
        yield
    except psycopg.Error as error:
        raise DBAPIError.instance(None, None, error, psycopg.Error, dialect=connection.dialect) from error


def _execute(connection: Connection, text: str, parameters: Any) -> Any:
    """Send a statement and return its cursor; a transaction begins if there is none, as with SQLAlchemy."""
    if not connection.in_transaction():
        connection.begin()
    return _driver(connection).execute(text, parameters)


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
