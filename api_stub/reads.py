"""The reads of the registry, bound to a database: each checks the key, then its route's handler answers."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.responses import Response

from api_stub.auth import keys
from api_stub.auth.checks import KeyRing
from api_stub.lookups.coalesce import Coalescer
from api_stub.lookups.lookup import Database
from api_stub.routes.read import Find, Read
from api_stub.routes.registry import READS

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


def now_us() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class Reads:
    """A handler for each read, by its path, and the lookups they make; `clock` is what "now" means to all."""

    def __init__(self, database: Database, key_cache_s: float, clock: Callable[[], int] = now_us) -> None:
        find_key = Coalescer(partial(database.read, keys.lookup))
        self._key_ring = KeyRing(find_key.get, key_cache_s)
        self._clock = clock
        self.coalescers: dict[str, Coalescer[Any, Any]] = {"key": find_key}
        self.handlers: dict[str, Handler] = {}
        for read in READS:
            coalescer = self.coalescers[read.name] = Coalescer(partial(database.read, read.lookup))
            self.handlers[read.path] = self._handler(read, coalescer.get)

    def _handler(self, read: Read[Any, Any], find: Find[Any, Any]) -> Handler:
        handle = read.handle

        async def answer(request: Request) -> Response:
            now = self._clock()
            key = await self._key_ring.reader(request, now)
            return await handle(request, key, now, find)

        return answer
