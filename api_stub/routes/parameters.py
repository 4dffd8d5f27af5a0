"""Parameters and headers that several reads share."""

import re

from starlette.requests import Request

from api_stub import errors
from event_stream.events.patterns import ALLOWED, UUID_PATTERN, matches

_WHOLE_NUMBER = re.compile(r"[0-9]{1,4}", re.ASCII)
PROJECT_HEADER = {
    "name": "X-Project-Id",
    "in": "header",
    "required": False,
    "description": "The project. Required with an organisation key where the path names no project. Elsewhere it is"
    " optional and must name the project that is read.",
    "schema": {"type": "string", "format": "uuid", "pattern": UUID_PATTERN},
    "example": "6f1c89bb-3b50-4c4a-9c5f-2f6f6a0b7c11",
}


def project_header(request: Request) -> str | None:
    """Return the project that the header X-Project-Id names, in lower case, or None without the header."""
    values = request.headers.getlist("X-Project-Id")
    if not values:
        return None
    if len(values) == 1 and matches(UUID_PATTERN, values[0]):
        return values[0].lower()
    raise errors.invalid("X-Project-Id", f"must be {ALLOWED[UUID_PATTERN]}, given once")


def reject_min_position(request: Request) -> None:
    """Raise an ApiError if the request has X-Min-Position (docs/reference/api.md#x-min-position)."""
    if "X-Min-Position" in request.headers:
        raise errors.not_implemented("X-Min-Position is not supported yet; leave it out.")


def whole_number(request: Request, name: str, *, default: int, maximum: int) -> int:
    """Return the query parameter of this name, from 1 to `maximum`, or the default if it is left out."""
    values = request.query_params.getlist(name)
    if not values:
        return default
    if len(values) == 1 and _WHOLE_NUMBER.fullmatch(values[0]) and 1 <= int(values[0]) <= maximum:
        return int(values[0])
    raise errors.invalid(name, f"must be a whole number from 1 to {maximum}, given once")
