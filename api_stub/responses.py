"""Responses: JSON bodies, and the base models of all successful responses."""

from collections.abc import Mapping
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from starlette.responses import Response

from api_stub.errors import ApiError

T = TypeVar("T")


class ResponseModel(BaseModel):
    """A part of a response; its members are camelCase in JSON."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Success(ResponseModel, Generic[T]):
    """The envelope of every success."""

    success: Literal[True] = True
    data: T


def json_response(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response whose body is encoded JSON."""
    return Response(body, status, headers, media_type="application/json")


def error_response(error: ApiError) -> Response:
    """Return the response of an error."""
    return json_response(error.status, error.body(), error.headers)
