"""Lookups on PostgreSQL, on asynchronous connections and without threads.

See docs/decisions/0037-wait-on-postgresql-in-the-event-loop.md.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import psycopg
from sqlalchemy import Engine

from api_stub import errors
from api_stub.lookups.coalesce import QUERY_TIMEOUT_S
from api_stub.lookups.lookup import ConnectionCounts, Lookup
from projections.database.columns import Row
from projections.database.connection import BoundedAsyncConnection, expiry_of_new_connection
from projections.database.engines import reader_connection_options
from projections.database.key_queries import bind_keys
from projections.database.pipeline import compile_statement

K = TypeVar("K", bound=Row)
V = TypeVar("V")


class PostgresqlDatabase:
    """Runs lookups on asynchronous connections.

    It opens a connection when all are in use, and keeps it until it is old. The callers limit how many lookups run at
    once.
    """

    def __init__(self, engine: Engine) -> None:
        self._dialect = engine.dialect
        self._options = reader_connection_options(engine)
        self._idle: list[BoundedAsyncConnection] = []
        self._in_use = 0

    async def read(self, lookup: Lookup[K, V], keys: Sequence[K]) -> Mapping[K, V]:
        """Return the values of `keys`. Raises the ApiError with status 503 if the database fails."""
        self._in_use += 1
        try:
            text, fixed = compile_statement(lookup.statement("postgresql"), self._dialect)
            return lookup.results(await self._rows(text.encode(), {**fixed, **bind_keys("postgresql", keys)}))
        except psycopg.Error as error:
            raise errors.unavailable() from error
        finally:
            self._in_use -= 1

    def connections(self) -> ConnectionCounts:
        """Return how many connections there are now."""
        return ConnectionCounts(len(self._idle) + self._in_use, self._in_use)

    def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.pgconn.finish()
        self._idle.clear()

    async def _rows(self, statement: bytes, parameters: Mapping[str, Any]) -> list[Row]:
        if (connection := self._pop_idle()) is not None:
            try:
                return await self._rows_on(connection, statement, parameters)
            except psycopg.OperationalError:
                # The server may have closed the connection while it was idle. If so, try once on a new one.
                if not connection.closed:
                    raise
        connection = await BoundedAsyncConnection.connect(**self._options, autocommit=True)
        connection.answer_timeout_s = QUERY_TIMEOUT_S  # callers wait no longer than this
        connection.expires_s = expiry_of_new_connection()
        return await self._rows_on(connection, statement, parameters)

    def _pop_idle(self) -> BoundedAsyncConnection | None:
        """Return an idle connection, and close those that are too old."""
        while self._idle:
            connection = self._idle.pop()
            if time.monotonic() < connection.expires_s:
                return connection
            connection.pgconn.finish()
        return None

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
