"""The definition of a read: its path, lookup, handler and entry in the OpenAPI document."""

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
from projections.transaction.projection_state import have_rows

K = TypeVar("K", bound=Row)
V = TypeVar("V")


class RebuildPending:
    """Stands for a value that cannot be looked up yet, because a rebuild is pending."""


REBUILD_PENDING = RebuildPending()

Find: TypeAlias = Callable[[K], Awaitable[V | RebuildPending | None]]
"""Looks up one key. Concurrent calls share a query. Pass the result to `require_found`."""


@dataclass(frozen=True, slots=True)
class OpenApiOperation:
    """A read's entry in the OpenAPI document. Errors and the security scheme are the same for all reads."""

    operation_id: str
    summary: str
    parameters: tuple[Mapping[str, Any], ...]
    response: type[BaseModel]
    response_description: str


@dataclass(frozen=True, slots=True)
class Read(Generic[K, V]):
    """A read over HTTP.

    `name` labels its metrics. `handle` answers a GET request for `path`. Its arguments are the request, the API key
    (already checked), the time of the request in microseconds since 1970 UTC, and a function that looks up one key.
    """

    name: str
    path: str
    lookup: Lookup[K, V | RebuildPending]
    handle: Callable[[Request, ApiKey, int, Find[K, V]], Awaitable[Response]]
    openapi: OpenApiOperation
    is_of_tenant: bool = False
    """Whether a response grows with the projects of the tenant. Each tenant has few of them in progress."""


def require_found(result: V | RebuildPending | None) -> V:
    """Return the value of a lookup. Raises an ApiError if there is no such project, or a rebuild is pending."""
    if result is None:
        raise errors.no_such_project()
    if isinstance(result, RebuildPending):
        raise errors.rebuild_pending()
    return result


def is_rebuild_pending(versions: str | None, read_models: tuple[str, ...]) -> bool:
    """Return whether a tenant has no rows yet in one of the read models, because a rebuild is pending.

    `versions` is the tenant's row in the table projection_version. It is None for a tenant without events, which needs
    no rebuild.
    """
    return versions is not None and not have_rows(versions, read_models)
