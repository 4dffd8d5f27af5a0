"""Blocking work in threads, and lookups on a database whose driver blocks (SQLite)."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import QueuePool

from api_stub import errors
from api_stub.lookups.lookup import ConnectionCounts, Lookup
from projections.database.columns import Row

K = TypeVar("K", bound=Row)
V = TypeVar("V")


def run_in_thread(executor: Executor, work: Callable[..., V], *arguments: Any) -> Awaitable[V]:
    """Run `work` on the executor and return its result."""
    return asyncio.get_running_loop().run_in_executor(executor, work, *arguments)


class ThreadedDatabase:
    """Runs lookups in threads, over the connections of an engine."""

    def __init__(self, engine: Engine, executor: Executor) -> None:
        self._engine = engine
        self._executor = executor

    async def read(self, lookup: Lookup[K, V], keys: Sequence[K]) -> Mapping[K, V]:
        """Return the values of `keys`. Raises the ApiError with status 503 if the database fails."""
        return await run_in_thread(self._executor, self._read, lookup, keys)

    def connections(self) -> ConnectionCounts:
        """Return how many connections there are now."""
        pool = self._engine.pool
        assert isinstance(pool, QueuePool)
        return ConnectionCounts(pool.checkedin() + pool.checkedout(), pool.checkedout())

    def close(self) -> None:
        """Do nothing: the engine belongs to the caller."""

    def _read(self, lookup: Lookup[K, V], keys: Sequence[K]) -> Mapping[K, V]:
        try:
            with self._engine.connect() as connection:
                return lookup.read(connection, keys)
        except SQLAlchemyError as error:
            raise errors.unavailable() from error
