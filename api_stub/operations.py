"""The handlers for those who run the API (CONTRACT 2.5)."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial

from pydantic_core import to_json
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from api_stub import errors
from api_stub.coalesce import Coalescer
from api_stub.handlers import json_response
from api_stub.lookup import in_thread
from api_stub.openapi import document
from projections import schema
from projections.schema import SchemaTooOldError


@dataclass(frozen=True)
class Operations:
    """The handlers of the operations endpoints. Checks asked for at the same time share one run."""

    reading_problems: Coalescer[None, Sequence[str]]
    projector_problems: Coalescer[None, Sequence[str]]

    @classmethod
    def on(cls, engine: Engine, executor: Executor, projector_problems: Callable[[], Sequence[str]]) -> "Operations":
        """Return the handlers over a database and a check of the projector."""
        return cls(
            Coalescer(partial(in_thread, executor, lambda _: {None: _reading_problems(engine)})),
            Coalescer(partial(in_thread, executor, lambda _: {None: projector_problems()})),
        )

    async def healthz(self, _request: Request) -> Response:
        """GET /healthz: this process is alive."""
        return json_response(200, b'{"status":"ok"}')

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: this process can answer reads."""
        return _health(await self.reading_problems.get(None))

    async def projector(self, _request: Request) -> Response:
        """GET /healthz/projector: events reach the read models."""
        return _health(await self.projector_problems.get(None))

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: comes later."""
        raise errors.not_implemented("Metrics are not available yet; see `projector status --json`.")

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json."""
        return json_response(200, to_json(document()))


def _reading_problems(engine: Engine) -> list[str]:
    try:
        with engine.connect() as connection:
            schema.check(connection)
    except SchemaTooOldError as error:
        return [str(error)]
    except SQLAlchemyError:
        return ["the database cannot be reached"]
    return []


def _health(problems: Sequence[str] | None) -> Response:
    body = {"status": "failing" if problems else "ok", "problems": list(problems or ())}
    return json_response(503 if problems else 200, to_json(body))
