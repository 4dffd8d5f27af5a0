"""The API as an ASGI application: which path goes where, and how errors are answered.

Not Starlette's own: its routes and layers took a tenth of an answer's time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from api_stub import errors
from api_stub.errors import ApiError
from api_stub.operations import Operations
from api_stub.reads import Handler, Reads
from api_stub.request_metrics import TEMPLATE
from api_stub.responses import json_response

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Route:
    """A path, in which `{name}` stands for any text without a slash, and what answers a GET of it."""

    path: str
    handler: Handler


def read_routes(reads: Reads) -> list[Route]:
    """Return the routes of the reads."""
    return [Route(path, handler) for path, handler in reads.handlers.items()]


def operations_routes(operations: Operations) -> list[Route]:
    """Return the routes for those who run the API."""
    return [
        Route("/healthz", operations.healthz),
        Route("/readyz", operations.readyz),
        Route("/healthz/projector", operations.projector),
        Route("/metrics", operations.metrics),
        Route("/openapi.json", operations.openapi),
    ]


def application(routes: Sequence[Route]) -> ASGIApp:
    """Return an ASGI application that answers `routes`, and everything else with the error it deserves."""
    router = _Router(routes)

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await _response(router, scope)
        except Exception:
            await _rendered(ApiError(500, "INTERNAL_ERROR", "Something is wrong on our side."))(scope, receive, send)
            raise  # so that the server logs where it came from
        await response(scope, receive, send)

    return answer


class _Router:
    """Finds the route of a path, and leaves in its scope what the path says."""

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


async def _response(router: _Router, scope: Scope) -> Response:
    try:
        route = router.find(scope)
        if route is None:
            raise errors.not_found()
        scope[TEMPLATE] = route.path
        if scope["method"] not in ("GET", "HEAD"):
            raise errors.method_not_allowed("GET, HEAD")
        return await route.handler(Request(scope))
    except ApiError as error:
        if error.status == 503:
            cause = type(error.__cause__).__name__ if error.__cause__ else "not filled"
            log.warning("api.unavailable", cause=cause)
        return _rendered(error)
    except TimeoutError:
        log.warning("api.unavailable", cause="timeout")
        return _rendered(errors.unavailable())


def _rendered(error: ApiError) -> Response:
    return json_response(error.status, error.body(), error.headers)
