"""Request handlers of the reads: authenticate the request, then call the read's own handler."""

import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

from starlette.requests import Request
from starlette.types import ASGIApp

from api_stub.auth import keys
from api_stub.auth.checks import Authenticator
from api_stub.lookups.coalesce import Coalescer
from api_stub.lookups.databases import LookupDatabase
from api_stub.routes.read import Find, Read
from api_stub.routes.registry import READS
from api_stub.tenant_slots import TenantSlots

Handler: TypeAlias = Callable[[Request], Awaitable[ASGIApp]]


def now_us() -> int:
    """Return the time in microseconds since 1970 UTC."""
    return time.time_ns() // 1000


class ReadHandlers:
    """The handlers of all reads in the registry, by path, on one database.

    `coalescers` has the lookups by name: `key`, and one for each read. `clock` gives the time of a request.
    """

    def __init__(self, database: LookupDatabase, key_cache_s: float, clock: Callable[[], int] = now_us) -> None:
        find_key = Coalescer(partial(database.read, keys.lookup))
        self._authenticator = Authenticator(find_key.get, key_cache_s)
        self._clock = clock
        self._slots = TenantSlots()
        self.coalescers: dict[str, Coalescer[Any, Any]] = {"key": find_key}
        self.handlers: dict[str, Handler] = {}
        for read in READS:
            coalescer = Coalescer(partial(database.read, read.lookup), read.lookup.keys_per_query)
            self.coalescers[read.name] = coalescer
            handler = self._handler_of_tenant if read.is_of_tenant else self._handler
            self.handlers[read.path] = handler(read, coalescer.get)

    def _handler(self, read: Read[Any, Any], find: Find[Any, Any]) -> Handler:
        handle = read.handle

        async def respond(request: Request) -> ASGIApp:
            now = self._clock()
            key = await self._authenticator.authorize_read(request, now)
            return await handle(request, key, now, find)

        return respond

    def _handler_of_tenant(self, read: Read[Any, Any], find: Find[Any, Any]) -> Handler:
        """Return a handler whose look-ups wait for a slot of the tenant, as responses grow with its projects."""
        handle = read.handle

        async def respond(request: Request) -> ASGIApp:
            now = self._clock()
            key = await self._authenticator.authorize_read(request, now)
            slot = self._slots.slot(key.tenant_id)

            async def find_in_slot(lookup_key: Any) -> Any:
                await slot.enter()
                return await find(lookup_key)

            try:
                response = await handle(request, key, now, find_in_slot)
            except BaseException:
                slot.leave()
                raise
            return slot.until_received(response)

        return respond
