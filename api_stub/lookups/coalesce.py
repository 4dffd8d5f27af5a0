"""Coalescing: concurrent lookups share one query."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import chain
from typing import Generic, TypeAlias, TypeVar

from api_stub.lookups.lookup import KEYS_PER_QUERY_MAX

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Waiters: TypeAlias = list[asyncio.Future[V | None]]

QUERY_TIMEOUT_S = 5.0


class Coalescer(Generic[K, V]):
    """Combines lookups of single keys into queries of many keys.

    One query runs at a time, and lookups wait for the next one. A lookup never joins a query that was already sent, so
    its value is never older than the lookup, and there is no cache to invalidate. `lookups` and `queries` count both.
    """

    def __init__(
        self, query: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], keys_per_query: int = KEYS_PER_QUERY_MAX
    ) -> None:
        self._query = query
        self._keys_per_query = keys_per_query
        self._waiting: dict[K, Waiters[V]] = {}
        self._running: asyncio.Task[None] | None = None
        self.lookups = 0
        self.queries = 0

    async def get(self, key: K) -> V | None:
        """Return the value of `key`, or None if it has none.

        Raises what the query raises, or TimeoutError after QUERY_TIMEOUT_S.
        """
        self.lookups += 1
        loop = asyncio.get_running_loop()
        if not self._waiting:
            # Send the query at the next turn of the event loop, after all requests of this turn have added their keys.
            loop.call_soon(self._send)
        waiters = self._waiting.setdefault(key, [])
        answer: asyncio.Future[V | None] = loop.create_future()
        waiters.append(answer)
        timer = loop.call_later(QUERY_TIMEOUT_S, _time_out, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            if self._waiting.get(key) is waiters:
                self._leave(key, waiters, answer)

    def _leave(self, key: K, waiters: Waiters[V], answer: asyncio.Future[V | None]) -> None:
        # Otherwise, while queries hang, keys that no request waits for would pile up and delay later lookups.
        waiters.remove(answer)
        if not waiters:
            del self._waiting[key]

    def _send(self) -> None:
        if self._running is None and self._waiting:
            keys = {key: self._waiting.pop(key) for key in list(self._waiting)[: self._keys_per_query]}
            self.queries += 1
            self._running = asyncio.create_task(self._run(keys))

    async def _run(self, keys: Mapping[K, Waiters[V]]) -> None:
        try:
            values = await self._query(list(keys))
            for key, waiters in keys.items():
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(values.get(key))
        except Exception as error:
            for waiter in chain.from_iterable(keys.values()):
                _fail(waiter, error)
        finally:
            self._running = None
            self._send()


def _time_out(waiter: asyncio.Future[V | None]) -> None:
    _fail(waiter, TimeoutError(f"no answer within {QUERY_TIMEOUT_S} s"))


def _fail(waiter: asyncio.Future[V | None], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
        waiter.exception()  # mark it as retrieved: if the caller has gone, asyncio would log a warning
