"""Lookups: statements that answer any number of asks at once, executed without holding up the event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import psycopg
from sqlalchemy import Compiled, Connection, Engine, Select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from api_stub import errors
from api_stub.lookups.coalesce import WAIT_S
from projections.database.bulk import bind_keys
from projections.database.columns import Row
from projections.database.connection import BoundedAsyncConnection
from projections.database.engines import psycopg_dialect, reader_options

K = TypeVar("K", bound=Row)
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Lookup(Generic[K, V]):
    """One statement, told the dialect's name, and what its rows answer; an ask without an answer is left out.

    Each ask touches its own few rows, and all are answered from one snapshot.
    """

    statement: Callable[[str], Select[Any]]
    answers: Callable[[Iterable[Row]], dict[K, V]]

    def read(self, connection: Connection, asks: Sequence[K]) -> dict[K, V]:
        """Return the answers of `asks`, read on a connection of SQLAlchemy's."""
        name = connection.dialect.name
        return self.answers(tuple(row) for row in connection.execute(self.statement(name), bind_keys(name, asks)))


class Connections(NamedTuple):
    """How many connections are open, and how many of them a lookup holds."""

    open: int
    in_use: int


class Database(Protocol):
    """Where lookups are answered."""

    def connections(self) -> Connections:
        """Return how many connections reads have now."""

    async def read(self, lookup: Lookup[K, V], asks: Sequence[K]) -> Mapping[K, V]:
        """Return the answers of `asks`; raises the 503 to answer if they cannot be had."""

    def close(self) -> None:
        """Close what is idle."""


def database(engine: Engine, executor: Executor) -> Database:
    """Return the database that an engine leads to; what blocks runs on the executor."""
    return Postgresql(engine) if engine.dialect.name == "postgresql" else InThreads(engine, executor)


class InThreads:
    """A database whose driver blocks, which SQLite's does: lookups run in threads."""

    def __init__(self, engine: Engine, executor: Executor) -> None:
        self._engine = engine
        self._executor = executor

    async def read(self, lookup: Lookup[K, V], asks: Sequence[K]) -> Mapping[K, V]:
        """Return the answers of `asks`; raises the 503 to answer if they cannot be had."""
        return await in_thread(self._executor, self._read, lookup, asks)

    def connections(self) -> Connections:
        """Return how many connections reads have now."""
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)
        return Connections(pool.checkedin() + pool.checkedout(), pool.checkedout())

    def _read(self, lookup: Lookup[K, V], asks: Sequence[K]) -> Mapping[K, V]:
        try:
            with self._engine.connect() as connection:
                return lookup.read(connection, asks)
        except SQLAlchemyError as error:
            raise errors.unavailable() from error

    def close(self) -> None:
        """Leave the engine to whoever made it."""


class Postgresql:
    """PostgreSQL, read by the event loop itself: a thread that waits for the interpreter costs more than the lookup.

    There are as many connections as lookups were ever under way at once; whoever asks bounds them.
    """

    def __init__(self, engine: Engine) -> None:
        self._options = reader_options(engine.url)
        self._idle: list[BoundedAsyncConnection] = []
        self._in_use = 0

    def connections(self) -> Connections:
        """Return how many connections reads have now."""
        return Connections(len(self._idle) + self._in_use, self._in_use)

    async def read(self, lookup: Lookup[K, V], asks: Sequence[K]) -> Mapping[K, V]:
        """Return the answers of `asks`; raises the 503 to answer if they cannot be had."""
        self._in_use += 1
        try:
            compiled = _compiled(lookup.statement)
            parameters = {**compiled.params, **bind_keys("postgresql", asks)}
            return lookup.answers(await self._rows(str(compiled).encode(), parameters))
        except psycopg.Error as error:
            raise errors.unavailable() from error
        finally:
            self._in_use -= 1

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.pgconn.finish()
        self._idle.clear()

    async def _rows(self, statement: bytes, parameters: Mapping[str, Any]) -> list[Row]:
        if self._idle:
            connection = self._idle.pop()
            try:
                return await self._rows_on(connection, statement, parameters)
            except psycopg.OperationalError:
                # The server may have ended it while it was idle; then a new one can tell.
                if not connection.closed:
                    raise
        connection = await BoundedAsyncConnection.connect(**self._options, autocommit=True)
        connection.answer_within_s = WAIT_S  # then nobody waits for it any more
        return await self._rows_on(connection, statement, parameters)

    async def _rows_on(
        self, connection: BoundedAsyncConnection, statement: bytes, parameters: Mapping[str, Any]
    ) -> list[Row]:
        try:
            cursor = connection.cursor(binary=True)
            await cursor.execute(statement, parameters, prepare=True)
            return await cursor.fetchall()
        finally:
            if not connection.closed:
                self._idle.append(connection)


@cache
def _compiled(statement: Callable[[str], Select[Any]]) -> Compiled:
    return statement("postgresql").compile(dialect=psycopg_dialect())


def in_thread(executor: Executor, work: Callable[..., V], *arguments: Any) -> Awaitable[V]:
    """Return what `work` returns, run by the executor."""
    return asyncio.get_running_loop().run_in_executor(executor, work, *arguments)
