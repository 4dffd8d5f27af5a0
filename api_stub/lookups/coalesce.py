"""Lookups that are asked at the same time share one query."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import chain
from typing import Generic, TypeAlias, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Waiters: TypeAlias = list[asyncio.Future[V | None]]

ASKS_MAX = 256
WAIT_S = 5.0


class Coalescer(Generic[K, V]):
    """Turns single asks into queries of many.

    An ask joins the next query, never one already sent; so an answer is never older than its ask, and there is no cache
    to invalidate. While a query is under way, asks gather for the next. `asked` counts asks, `sent` queries.
    """

    def __init__(self, query: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._query = query
        self._waiting: dict[K, Waiters[V]] = {}
        self._running: asyncio.Task[None] | None = None
        self.asked = 0
        self.sent = 0

    async def get(self, key: K) -> V | None:
        """Return the answer for `key`, None if there is none.

        Raises what the query raises, or TimeoutError after WAIT_S.
        """
        self.asked += 1
        loop = asyncio.get_running_loop()
        if not self._waiting:
            # Not at once, but when all that has arrived together has asked.
            loop.call_soon(self._send)
        waiters = self._waiting.setdefault(key, [])
        answer: asyncio.Future[V | None] = loop.create_future()
        waiters.append(answer)
        timer = loop.call_later(WAIT_S, _give_up, answer)
        try:
            return await answer
        finally:
            timer.cancel()
            if self._waiting.get(key) is waiters:
                self._leave(key, waiters, answer)

    def _leave(self, key: K, waiters: Waiters[V], answer: asyncio.Future[V | None]) -> None:
        # While queries hang, what nobody waits for any more would pile up, and keep others waiting later.
        waiters.remove(answer)
        if not waiters:
            del self._waiting[key]

    def _send(self) -> None:
        if self._running is None and self._waiting:
            asks = {key: self._waiting.pop(key) for key in list(self._waiting)[:ASKS_MAX]}
            self.sent += 1
            self._running = asyncio.create_task(self._run(asks))

    async def _run(self, asks: Mapping[K, Waiters[V]]) -> None:
        try:
            answers = await self._query(list(asks))
            for key, waiters in asks.items():
                for waiter in waiters:
                    if not waiter.done():
                        waiter.set_result(answers.get(key))
        except Exception as error:
            for waiter in chain.from_iterable(asks.values()):
                _fail(waiter, error)
        finally:
            self._running = None
            self._send()


def _give_up(waiter: asyncio.Future[V | None]) -> None:
    _fail(waiter, TimeoutError(f"no answer within {WAIT_S} s"))


def _fail(waiter: asyncio.Future[V | None], error: Exception) -> None:
    if not waiter.done():
        waiter.set_exception(error)
        waiter.exception()  # whoever asked may be leaving; then nobody is to be warned
