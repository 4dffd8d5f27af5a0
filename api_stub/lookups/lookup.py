"""Lookups: one SQL statement that answers many keys at once."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from sqlalchemy import Connection, Select

from projections.database.columns import Row
from projections.database.key_queries import bind_keys

KEYS_PER_QUERY_MAX = 256

K = TypeVar("K", bound=Row)
V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Lookup(Generic[K, V]):
    """A statement that looks up any number of keys, all in one snapshot of the database.

    `statement` returns the statement for a dialect's name. `results` turns its rows into values by key; a key without
    a value is left out. The cost of a key must not depend on the size of the tables.
    """

    statement: Callable[[str], Select[Any]]
    results: Callable[[Iterable[Row]], dict[K, V]]
    keys_per_query: int = KEYS_PER_QUERY_MAX

    def read(self, connection: Connection, keys: Sequence[K]) -> dict[K, V]:
        """Return the values of `keys`, read on an SQLAlchemy connection."""
        name = connection.dialect.name
        return self.results(tuple(row) for row in connection.execute(self.statement(name), bind_keys(name, keys)))


class ConnectionCounts(NamedTuple):
    """How many connections are open, and how many of them are in use."""

    open: int
    in_use: int
