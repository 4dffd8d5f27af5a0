"""What a read is: a value that names its path, its lookup, its handler, and its entry in the OpenAPI document."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from api_stub import errors
from api_stub.auth.keys import ApiKey
from api_stub.lookups.lookup import Lookup
from projections.database.columns import Row
from projections.transaction.projection_version import have_rows

K = TypeVar("K", bound=Row)
V = TypeVar("V")


class NotFilled:
    """The answer while a rebuild has not given the tenant rows in all read models that one needs."""


NOT_FILLED = NotFilled()

Find: TypeAlias = Callable[[K], Awaitable[V | NotFilled | None]]
"""Looks up one key; concurrent calls share a query. Give its result to `found`."""


@dataclass(frozen=True, slots=True)
class OpenApi:
    """What the OpenAPI document says of a read; all reads share the errors and the security scheme."""

    operation_id: str
    summary: str
    parameters: tuple[Mapping[str, Any], ...]
    response: type[BaseModel]
    description: str


@dataclass(frozen=True, slots=True)
class Read(Generic[K, V]):
    """A read over HTTP.

    `name` labels its metrics. `handle` answers a GET of `path`; it gets the request, the key, which may read, the time
    of the request in microseconds since 1970 UTC, and the function that looks up one key of `lookup`.
    """

    name: str
    path: str
    lookup: Lookup[K, V | NotFilled]
    handle: Callable[[Request, ApiKey, int, Find[K, V]], Awaitable[Response]]
    openapi: OpenApi


def found(result: V | NotFilled | None) -> V:
    """Return what a lookup found; raises the ApiError to answer if there is no such project, or no rows yet."""
    if result is None:
        raise errors.no_such_project()
    if isinstance(result, NotFilled):
        raise errors.not_filled()
    return result


def lack_rows(versions: str | None, read_models: tuple[str, ...]) -> bool:
    """Return whether read models of a tenant are not filled; a tenant without events has none to fill."""
    return versions is not None and not have_rows(versions, read_models)
