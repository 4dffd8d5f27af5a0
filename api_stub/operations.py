"""The handlers for those who run the API (docs/reference/api.md#operations)."""

from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from pydantic_core import to_json
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from api_stub.lookups.coalesce import WAIT_S, Coalescer
from api_stub.lookups.lookup import in_thread
from api_stub.openapi import document
from api_stub.responses import json_response
from projections import schema
from projections.errors import ProjectionsError

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Health:
    """What a check found: `obstacles` make it fail; `omissions` are worth knowing, and make nothing fail."""

    errors: Sequence[str] = ()
    warnings: Sequence[str] = ()


@dataclass(frozen=True)
class Operations:
    """The handlers of the operations endpoints. Checks asked for at the same time share one run.

    `scrape` returns what GET /metrics answers, as Prometheus's text; it must neither raise nor wait for long.
    """

    reading: Coalescer[None, Health]
    projector_health: Coalescer[None, Health]
    scrape: Callable[[], Awaitable[bytes]]

    @classmethod
    def on(
        cls,
        engine: Engine,
        executor: Executor,
        projector_health: Callable[[], Health],
        scrape: Callable[[], Awaitable[bytes]],
    ) -> "Operations":
        """Return the handlers over a database, a check of the projector, and its metrics."""
        return cls(
            Coalescer(partial(in_thread, executor, lambda _: {None: _reading(engine)})),
            Coalescer(partial(in_thread, executor, lambda _: {None: projector_health()})),
            scrape,
        )

    async def healthz(self, _request: Request) -> Response:
        """GET /healthz: this process is alive."""
        return json_response(200, b'{"status":"ok"}')

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: this process can answer reads."""
        return await _health(self.reading)

    async def projector(self, _request: Request) -> Response:
        """GET /healthz/projector: events reach the read models."""
        return await _health(self.projector_health)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: what Prometheus scrapes."""
        return Response(await self.scrape(), media_type=METRICS_TYPE)

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json."""
        return json_response(200, to_json(document()))


def _reading(engine: Engine) -> Health:
    try:
        with engine.connect() as connection:
            schema.check(connection)
    except ProjectionsError as error:
        return Health([str(error)])
    except SQLAlchemyError:
        return Health(["the database cannot be reached"])
    return Health()


async def _health(check: Coalescer[None, Health]) -> Response:
    try:
        found = await check.get(None) or Health()
    except TimeoutError:
        found = Health([f"no answer to this check within {WAIT_S:g} s"])
    status = "failing" if found.errors else "degraded" if found.warnings else "ok"
    body = {"status": status, "problems": [*found.errors, *found.warnings]}
    return json_response(503 if found.errors else 200, to_json(body))
