"""Execute SQLAlchemy's statements directly with psycopg, alone or in pipeline mode (`pipelined`).

For a few rows, SQLAlchemy's overhead takes longer than PostgreSQL's work, and so does waiting for each result one by
one (docs/decisions/0020-pipeline-small-batches.md). On SQLite, SQLAlchemy executes the statements.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Connection, Dialect, Executable, Select
from sqlalchemy.exc import DBAPIError

from projections.database.columns import Row

_PIPELINE = "pipeline"  # the key in a connection's `info`


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
        _send_compiled(connection, statement, parameters)


@cache
def compile_statement(statement: Any, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
    """Return a statement's text, and the parameters that are the same for each execution."""
    compiled = statement.compile(dialect=dialect)
    return str(compiled), compiled.params


def execute_driver_sql(connection: Connection, text: str, parameters: Sequence[Any]) -> None:
    """Execute a statement that returns no rows, written with psycopg's placeholders."""
    with _raising_as_sqlalchemy(connection):
        _execute(connection, text, parameters)


def _send(connection: Connection, query: Query) -> Callable[[], Sequence[Row]]:
    """Send a query; return the function that reads its rows."""
    fetchall: Callable[[], Sequence[Row]] = _send_compiled(connection, *query).fetchall
    return fetchall


def _send_compiled(connection: Connection, statement: Executable, parameters: Mapping[str, Any]) -> Any:
    """Send a statement and return its cursor. Values are psycopg's: no converter of an SQLAlchemy type is called."""
    text, fixed = compile_statement(statement, connection.dialect)
    return _execute(connection, text, {**fixed, **parameters})


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
