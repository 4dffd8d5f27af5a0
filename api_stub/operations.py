"""Handlers of the operations endpoints: health checks, metrics, OpenAPI (docs/reference/api.md#operations)."""

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from pydantic_core import to_json
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from api_stub.lookups.coalesce import QUERY_TIMEOUT_S, Coalescer
from api_stub.lookups.threads import run_in_thread
from api_stub.openapi import document
from api_stub.responses import json_response
from api_stub.serving.shutdown import Shutdown
from projections import schema
from projections.errors import ProjectionsError

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Health:
    """The result of a health check. Errors make it fail; warnings only degrade it."""

    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Operations:
    """The handlers of the operations endpoints. Concurrent requests for a check share one run.

    `scrape` returns the body of GET /metrics. It must not raise, and must return within seconds.
    """

    readiness: Coalescer[None, Health]
    projector_health: Coalescer[None, Health]
    scrape: Callable[[], Awaitable[bytes]]
    shutdown: Shutdown

    @classmethod
    def create(
        cls,
        engine: Engine,
        executor: Executor,
        projector_health: Callable[[], Health],
        scrape: Callable[[], Awaitable[bytes]],
        shutdown: Shutdown,
    ) -> "Operations":
        """Return the handlers. The checks run on the executor."""
        return cls(
            Coalescer(partial(run_in_thread, executor, lambda _: {None: _readiness(engine)})),
            Coalescer(partial(run_in_thread, executor, lambda _: {None: projector_health()})),
            scrape,
            shutdown,
        )

    async def healthz(self, _request: Request) -> Response:
        """GET /healthz: the process is alive."""
        return json_response(200, b'{"status":"ok"}')

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: this process can answer reads, and will go on doing so."""
        if self.shutdown.has_begun:
            return _health(Health(["this process is shutting down"]))
        return await _health_response(self.readiness)

    async def projector(self, _request: Request) -> Response:
        """GET /healthz/projector: events reach the read models."""
        return await _health_response(self.projector_health)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: metrics in Prometheus's text format."""
        return Response(await self.scrape(), media_type=METRICS_TYPE)

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json: the OpenAPI document."""
        return json_response(200, to_json(document()))


def _readiness(engine: Engine) -> Health:
    try:
        with engine.connect() as connection:
            schema.check(connection)
    except ProjectionsError as error:
        return Health([str(error)])
    except SQLAlchemyError:
        return Health(["the database cannot be reached"])
    return Health()


async def _health_response(check: Coalescer[None, Health]) -> Response:
    try:
        health = await check.get(None) or Health()
    except TimeoutError:
        health = Health([f"no answer to this check within {QUERY_TIMEOUT_S:g} s"])
    return _health(health)


def _health(health: Health) -> Response:
    status = "failing" if health.errors else "degraded" if health.warnings else "ok"
    body = {"status": status, "problems": [*health.errors, *health.warnings]}
    return json_response(503 if health.errors else 200, to_json(body))
