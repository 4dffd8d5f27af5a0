"""The database that lookups run on: PostgreSQL in the event loop, SQLite in threads."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Protocol, TypeVar

from sqlalchemy import Engine

from api_stub.lookups.lookup import ConnectionCounts, Lookup
from api_stub.lookups.postgresql import PostgresqlDatabase
from api_stub.lookups.threads import ThreadedDatabase
from projections.database.columns import Row

K = TypeVar("K", bound=Row)
V = TypeVar("V")


class LookupDatabase(Protocol):
    """A database that runs lookups without blocking the event loop."""

    def connections(self) -> ConnectionCounts:
        """Return how many connections there are now."""

    async def read(self, lookup: Lookup[K, V], keys: Sequence[K]) -> Mapping[K, V]:
        """Return the values of `keys`. Raises the ApiError with status 503 if the database fails."""

    def close(self) -> None:
        """Close idle connections."""


def open_database(engine: Engine, executor: Executor) -> LookupDatabase:
    """Return the database of an engine. Blocking drivers run on the executor."""
    return PostgresqlDatabase(engine) if engine.dialect.name == "postgresql" else ThreadedDatabase(engine, executor)
