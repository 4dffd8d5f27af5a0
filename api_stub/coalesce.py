"""Lookups that are asked at the same time share one query."""

import asyncio
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

ASKS_MAX = 256
WAIT_S = 5.0


@dataclass
class Ask(Generic[V]):
    """What is to be looked up, and how many wait for it."""

    answer: asyncio.Future[V | None]
    askers: int = 0


class Coalescer(Generic[K, V]):
    """Turns single asks into queries of many.

    An ask joins the next query, never one already sent; so an answer is never older than its ask, and there is no cache
    to invalidate. While `lanes` queries are under way, asks gather for the next. `asked` counts asks, `sent` queries.
    """

    def __init__(self, query: Callable[[Sequence[K]], Mapping[K, V]], executor: Executor, lanes: int = 1) -> None:
        self._query = query
        self._executor = executor
        self._free_lanes = lanes
        self._waiting: dict[K, Ask[V]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self.asked = 0
        self.sent = 0

    async def get(self, key: K) -> V | None:
        """Return the answer for `key`, None if there is none.

        Raises what the query raises, or TimeoutError after WAIT_S.
        """
        self.asked += 1
        ask = self._waiting.get(key)
        if ask is None:
            ask = self._waiting[key] = Ask(asyncio.get_running_loop().create_future())
            self._send()
        ask.askers += 1
        try:
            # Others may wait for the same answer: one who leaves must not cancel it.
            return await asyncio.wait_for(asyncio.shield(ask.answer), WAIT_S)
        finally:
            ask.askers -= 1
            if ask.askers == 0 and self._waiting.get(key) is ask:
                # While queries hang, what nobody waits for any more would pile up, and keep others waiting later.
                del self._waiting[key]

    def _send(self) -> None:
        while self._free_lanes and self._waiting:
            asks = {key: self._waiting.pop(key) for key in list(self._waiting)[:ASKS_MAX]}
            self._free_lanes -= 1
            self.sent += 1
            task = asyncio.create_task(self._run(asks))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, asks: dict[K, Ask[V]]) -> None:
        try:
            answers = await asyncio.get_running_loop().run_in_executor(self._executor, self._query, list(asks))
            for key, ask in asks.items():
                if not ask.answer.done():
                    ask.answer.set_result(answers.get(key))
        except Exception as error:
            for ask in asks.values():
                if not ask.answer.done():
                    ask.answer.set_exception(error)
                    ask.answer.exception()  # whoever asked may have left; then nobody is to be warned
        finally:
            self._free_lanes += 1
            self._send()
