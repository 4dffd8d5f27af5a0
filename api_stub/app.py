"""The API as an ASGI application: finds the handler of a path, and turns errors into responses.

Starlette's routing is not used (docs/decisions/0038-a-lean-http-layer.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from api_stub import errors
from api_stub.errors import ApiError
from api_stub.handlers import Handler, ReadHandlers
from api_stub.operations import Operations
from api_stub.request_metrics import ROUTE_TEMPLATE
from api_stub.responses import error_response

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """A path and the handler of its GET requests. `{name}` in the path matches any text without a slash."""

    path: str
    handler: Handler


def read_routes(reads: ReadHandlers) -> list[Route]:
    """Return the routes of the reads."""
    return [Route(path, handler) for path, handler in reads.handlers.items()]


def operations_routes(operations: Operations) -> list[Route]:
    """Return the routes of the operations endpoints."""
    return [
        Route("/healthz", operations.healthz),
        Route("/readyz", operations.readyz),
        Route("/healthz/projector", operations.projector),
        Route("/metrics", operations.metrics),
        Route("/openapi.json", operations.openapi),
    ]


def application(routes: Sequence[Route]) -> ASGIApp:
    """Return an ASGI application that serves `routes`."""
    router = _Router(routes)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await _respond(router, scope)
        except Exception:
            await error_response(errors.internal_error())(scope, receive, send)
            raise  # the server logs the traceback
        await response(scope, receive, send)

    return app


class _Router:
    """Finds the route of a request, and stores the path's parameters in the scope."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._plain = {route.path: route for route in routes if "{" not in route.path}
        self._patterns = [(compile_path(route.path)[0], route) for route in routes if "{" in route.path]

    def find(self, scope: Scope) -> Route | None:
        path = scope["path"]
        if route := self._plain.get(path):
            return route
        for pattern, route in self._patterns:
            if match := pattern.fullmatch(path):
                scope["path_params"] = match.groupdict()
                return route
        return None


async def _respond(router: _Router, scope: Scope) -> ASGIApp:
    try:
        route = router.find(scope)
        if route is None:
            raise errors.not_found()
        scope[ROUTE_TEMPLATE] = route.path
        if scope["method"] not in ("GET", "HEAD"):
            raise errors.method_not_allowed("GET, HEAD")
        return await route.handler(Request(scope))
    except ApiError as error:
        if error.status == 503:
            cause = type(error.__cause__).__name__ if error.__cause__ else "rebuild pending"
            log.warning("api.unavailable", cause=cause)
        return error_response(error)
    except TimeoutError:
        log.warning("api.unavailable", cause="timeout")
        return error_response(errors.unavailable())
