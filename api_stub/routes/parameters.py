"""The headers that reads share: which project is meant, and which features are not built yet."""

from starlette.requests import Request

from api_stub import errors
from event_stream.envelope import UUID_PATTERN, matches

PROJECT_HEADER = {
    "name": "X-Project-Id",
    "in": "header",
    "required": False,
    "description": "The project. With an organisation key activity needs it; elsewhere it must be the one meant.",
    "schema": {"type": "string", "format": "uuid", "pattern": UUID_PATTERN},
    "example": "6f1c89bb-3b50-4c4a-9c5f-2f6f6a0b7c11",
}


def project_header(request: Request) -> str | None:
    """Return the project that the header X-Project-Id names, None if it is left out."""
    values = request.headers.getlist("X-Project-Id")
    if not values:
        return None
    if len(values) == 1 and matches(UUID_PATTERN, values[0]):
        return values[0]
    raise errors.invalid("X-Project-Id", "must be one lower-case canonical UUID")


def no_min_position(request: Request) -> None:
    """Refuse what is not built yet (docs/reference/api.md#x-min-position)."""
    if "X-Min-Position" in request.headers:
        raise errors.not_implemented("X-Min-Position is not supported yet; leave it out.")
