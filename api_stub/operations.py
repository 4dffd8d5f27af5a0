"""The handlers for those who run the API (CONTRACT 2.5)."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from pydantic_core import to_json
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import Response

from api_stub import errors
from api_stub.handlers import json_response
from api_stub.openapi import document
from projections import schema
from projections.schema import SchemaTooOldError


@dataclass(frozen=True)
class Operations:
    """The handlers for those who run the API (CONTRACT 2.5)."""

    engine: Engine
    executor: Executor
    projector_problems: Callable[[], Sequence[str]]

    async def healthz(self, _request: Request) -> Response:
        """GET /healthz: this process is alive."""
        return json_response(200, b'{"status":"ok"}')

    async def readyz(self, _request: Request) -> Response:
        """GET /readyz: this process can answer reads."""
        return await self._health(self._reading_problems)

    async def projector(self, _request: Request) -> Response:
        """GET /healthz/projector: events reach the read models."""
        return await self._health(self.projector_problems)

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: comes later."""
        raise errors.not_implemented("Metrics are not available yet; see `projector status --json`.")

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json."""
        return json_response(200, to_json(document()))

    def _reading_problems(self) -> list[str]:
        try:
            with self.engine.connect() as connection:
                schema.check(connection)
        except SchemaTooOldError as error:
            return [str(error)]
        except SQLAlchemyError:
            return ["the database cannot be reached"]
        return []

    async def _health(self, check: Callable[[], Sequence[str]]) -> Response:
        problems = list(await asyncio.get_running_loop().run_in_executor(self.executor, check))
        body = {"status": "failing" if problems else "ok", "problems": problems}
        return json_response(503 if problems else 200, to_json(body))
