"""The API as ASGI applications: which path goes where, and how errors are answered."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_stub import errors
from api_stub.errors import ApiError
from api_stub.handlers import Reads, json_response
from api_stub.operations import Operations

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

log = structlog.get_logger()


def read_routes(reads: Reads) -> list[Route]:
    """Return the routes of the two reads."""
    return [
        _get("/v1/config/projects/{slug}/stats", reads.stats),
        _get("/v1/config/monitoring/activity", reads.activity),
    ]


def operations_routes(operations: Operations) -> list[Route]:
    """Return the routes for those who run the API."""
    return [
        _get("/healthz", operations.healthz),
        _get("/readyz", operations.readyz),
        _get("/healthz/projector", operations.projector),
        _get("/metrics", operations.metrics),
        _get("/openapi.json", operations.openapi),
    ]


def application(routes: list[Route]) -> Starlette:
    """Return an ASGI application that answers `routes`, and everything else with the error it deserves."""
    app = Starlette(
        routes=routes,
        exception_handlers={
            ApiError: _on_api_error,
            HTTPException: _on_http_exception,
            TimeoutError: _on_timeout,
            Exception: _on_bug,
        },
    )
    app.router.redirect_slashes = False
    return app


def _get(path: str, handler: Handler) -> Route:
    return Route(path, handler, methods=["GET"])


def _answer(error: ApiError) -> Response:
    return json_response(error.status, error.body(), error.headers)


async def _on_api_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    if error.status == 503:
        log.warning("api.unavailable", cause=type(error.__cause__).__name__)
    return _answer(error)


async def _on_http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        return _answer(errors.method_not_allowed("GET, HEAD"))
    return _answer(errors.not_found())


async def _on_timeout(_request: Request, _error: Exception) -> Response:
    log.warning("api.unavailable", cause="timeout")
    return _answer(errors.unavailable())


async def _on_bug(_request: Request, _error: Exception) -> Response:
    # Starlette raises the error again behind this answer, so that the server logs where it came from.
    return _answer(ApiError(500, "INTERNAL_ERROR", "Something is wrong on our side."))
