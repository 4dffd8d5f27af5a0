"""`TenantSlots`: how many large responses a tenant may have in progress, so that no tenant takes the API's memory."""

import asyncio
from weakref import WeakValueDictionary

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api_stub import errors

SLOTS_PER_TENANT = 4
WAIT_S = 2.0


class TenantSlots:
    """The slots of all tenants. A request waits for one; it gives it back when its client has received the response."""

    def __init__(self, per_tenant: int = SLOTS_PER_TENANT, wait_s: float = WAIT_S) -> None:
        self._per_tenant, self._wait_s = per_tenant, wait_s
        # A tenant's semaphore lives as long as the slots that refer to it.
        self._semaphores: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    def slot(self, tenant_id: str) -> "TenantSlot":
        """Return a slot for a request of a tenant, not entered yet."""
        semaphore = self._semaphores.get(tenant_id)
        if semaphore is None:
            semaphore = self._semaphores[tenant_id] = asyncio.Semaphore(self._per_tenant)
        return TenantSlot(semaphore, self._wait_s)


class TenantSlot:
    """A slot for one request."""

    def __init__(self, semaphore: asyncio.Semaphore, wait_s: float) -> None:
        self._semaphore, self._wait_s = semaphore, wait_s
        self._is_entered = False

    async def enter(self) -> None:
        """Wait for a free slot; raises the ApiError with status 429 if there is none in time."""
        try:
            async with asyncio.timeout(self._wait_s):
                await self._semaphore.acquire()
        except TimeoutError:
            raise errors.too_many_requests() from None
        self._is_entered = True

    def leave(self) -> None:
        """Give the slot back, if it was entered."""
        if self._is_entered:
            self._is_entered = False
            self._semaphore.release()

    def until_received(self, response: ASGIApp) -> ASGIApp:
        """Return the response; sending it ends, and gives the slot back, when its client has received nearly all."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_wait(message: Message) -> None:
                if message["type"] != "http.response.body":
                    await send(message)
                    return
                await send({**message, "more_body": True})
                await asyncio.sleep(0)  # the transport writes, and finds out that the client does not read
                # The server takes this one only after the client has read the first.
                await send({"type": "http.response.body", "body": b""})

            try:
                await response(scope, receive, send_and_wait)
            finally:
                self.leave()

        return app
