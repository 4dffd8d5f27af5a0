"""One address that the API listens on: an application behind the guards of its connections, served by uvicorn."""

import asyncio
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api_stub import errors
from api_stub.errors import ApiError
from api_stub.responses import error_response
from api_stub.serving.connections import Connections, Phase
from api_stub.serving.guard import ConnectionGuard
from api_stub.serving.limits import Limits
from api_stub.serving.shutdown import Shutdown

BACKLOG = 128  # connections that the kernel may hand over at once; limits.OTHER_FILES leaves room for them
END_S = 4
LAST_REQUESTS_S = 1.0
_CLOSE = (b"connection", b"close")
_GUARD = "guard"


class Listener:
    """Serves an application on an address. `health_paths` are answered also when all connections are in use."""

    def __init__(
        self, app: ASGIApp, address: tuple[str, int], limits: Limits, shutdown: Shutdown, health_paths: Collection[str]
    ) -> None:
        self._connections = Connections(limits)
        self._app = app
        self._shutdown = shutdown
        self._health_paths = frozenset(health_paths)
        self._config: Any = uvicorn.Config(
            self._limited,
            host=address[0],
            port=address[1],
            http=self._guarded_protocol,  # type: ignore[arg-type]
            interface="asgi3",
            ws="none",
            proxy_headers=False,
            access_log=False,
            log_config=None,
            log_level="warning",
            lifespan="off",
            server_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=limits.keep_alive_s,
            timeout_graceful_shutdown=END_S,
        )
        self._server = _Server(self._config)

    async def serve(self) -> None:
        """Serve until `end` is called. Exits the process with an error if the address cannot be listened on."""
        await self._server.serve()

    async def end(self) -> None:
        """Accept no more connections, answer the requests that are on their way, and make `serve` return."""
        for server in getattr(self._server, "servers", ()):
            server.close()
        for idle in self._connections.waiting(Phase.IDLE):
            idle.close()
        deadline = asyncio.get_running_loop().time() + LAST_REQUESTS_S
        while self._connections.waiting(Phase.OPENED, Phase.RECEIVING):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.02)
        self._server.should_exit = True

    def _guarded_protocol(
        self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None
    ) -> ConnectionGuard:
        """Return the protocol of a new connection. The application finds the guard in the scope's `state`."""
        state = dict(app_state)
        inner = HttpToolsProtocol(config, server_state, state, _loop)
        guard = state[_GUARD] = ConnectionGuard(self._connections, inner)
        return guard

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, unless it is too large or all connections are in use."""
        guard: ConnectionGuard = scope["state"][_GUARD]

        async def send_or_close(message: Message) -> None:
            if message["type"] == "http.response.start" and (self._shutdown.has_begun or guard.closes_after_response):
                message["headers"] = [*message["headers"], _CLOSE]
            await send(message)

        guard.request_began()
        try:
            refusal = self._refusal(scope, guard)
            app = self._app if refusal is None else error_response(refusal)
            await app(scope, receive, send_or_close)
        finally:
            guard.request_ended()

    def _refusal(self, scope: Scope, guard: ConnectionGuard) -> ApiError | None:
        if guard.is_reserved and self._connections.is_over_limit and scope["path"] not in self._health_paths:
            return errors.too_many_connections()
        return None


class _Server(uvicorn.Server):
    """A uvicorn server without its signal handlers, which would end the process by the signal instead of status 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals; `serve` handles them for all listeners."""
        yield
