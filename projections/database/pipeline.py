"""Statements that SQLAlchemy makes and the driver carries: `ask` and `tell`; and `together`, without waiting between.

For a row or two what SQLAlchemy does around each execution takes longer than PostgreSQL; and so does waking up for each
answer, where it can answer many at once. SQLite answers within our own process; its statements go the usual way.
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

_PIPELINE = "pipeline"  # where a connection's `info` holds it

Converter: TypeAlias = Callable[[Any], Any]


class Query(NamedTuple):
    """A statement that is kept and executed often, and its parameters for once."""

    statement: Select[Any]
    parameters: Mapping[str, Any]


@contextmanager
def pipelined(connection: Connection) -> Iterator[None]:
    """Within this block send statements to PostgreSQL without waiting for their answers, but where `ask` needs one.

    What a statement raises may come from a later one, at the latest from the commit or the end of the block. Rows are
    got by `ask` alone in it, and there is no COPY.
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


def fetch(connection: Connection, *questions: Query | None) -> list[Sequence[Row]]:
    """Return the rows that answer each question, in order; None asks nothing, and is answered by no rows."""
    return list(iter_fetch(connection, *questions))


def iter_fetch(connection: Connection, *questions: Query | None) -> Iterator[Sequence[Row]]:
    """Yield what `ask` returns. In `together` all are sent at once; elsewhere each once its answer is wanted."""
    if connection.dialect.name != "postgresql":
        for question in questions:
            yield connection.execute(*question).all() if question else []
        return
    with _raising_as_sqlalchemy(connection):
        awaited: Iterable[Callable[[], Sequence[Row]] | None]
        awaited = (_send(connection, question) if question else None for question in questions)
        if _PIPELINE in connection.info and any(awaited := [*awaited]):
            # Not by fetching: PostgreSQL's limit for idle transactions does not look at who has flushed, not synced.
            connection.info[_PIPELINE].sync()
        for each in awaited:
            yield each() if each else []


def execute(connection: Connection, statement: Executable, parameters: Mapping[str, Any]) -> None:
    """Execute a statement that is kept and executed often, and has no rows to answer."""
    if connection.dialect.name != "postgresql":
        connection.execute(statement, parameters)
        return
    with _raising_as_sqlalchemy(connection):
        _compile(statement, connection.dialect).send(connection, parameters)


def execute_driver_sql(connection: Connection, text: str, parameters: Sequence[Any]) -> None:
    """Execute a statement as PostgreSQL's driver takes it, and that has no rows to answer."""
    with _raising_as_sqlalchemy(connection):
        _execute(connection, text, parameters)


def _send(connection: Connection, question: Query) -> Callable[[], Sequence[Row]]:
    """Send a question; returns what to call for its answer."""
    told = _compile(question.statement, connection.dialect)
    cursor = told.send(connection, question.parameters)
    return lambda: told.converted(cursor.fetchall())


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """A statement as the driver takes it."""

    text: str
    parameters: Mapping[str, Any]
    to_driver: Mapping[str, Converter]
    from_driver: Sequence[Converter | None]

    def send(self, connection: Connection, parameters: Mapping[str, Any]) -> Any:
        """Return the cursor that executes the statement."""
        whole = {**self.parameters, **parameters}
        for name, convert in self.to_driver.items():
            whole[name] = convert(whole[name])
        return _execute(connection, self.text, whole)

    def converted(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Return rows of the driver as SQLAlchemy's types have them."""
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
    to_driver = {name: _own(bind.type, dialect).bind_processor(dialect) for name, bind in compiled.binds.items()}
    columns = statement.selected_columns if isinstance(statement, Select) else ()
    return CompiledStatement(
        text=str(compiled),
        parameters=compiled.params,
        to_driver={name: convert for name, convert in to_driver.items() if convert},
        from_driver=[_own(column.type, dialect).result_processor(dialect, None) for column in columns],
    )


def _own(kind: TypeEngine[Any], dialect: Dialect) -> Any:
    return kind.dialect_impl(dialect)


@contextmanager
def _raising_as_sqlalchemy(connection: Connection) -> Iterator[None]:
    """Let callers meet the driver's errors as they meet them everywhere else."""
    try:
        yield
    except psycopg.Error as error:
        raise DBAPIError.instance(None, None, error, psycopg.Error, dialect=connection.dialect) from error


def _execute(connection: Connection, text: str, parameters: Any) -> Any:
    """Return the cursor that executes a statement, in a transaction that begins by itself as SQLAlchemy's do."""
    if not connection.in_transaction():
        connection.begin()
    return _driver(connection).execute(text, parameters)


def _driver(connection: Connection) -> Any:
    return connection.connection.driver_connection
