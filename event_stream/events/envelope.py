"""The CloudEvents 1.0 envelope: its attributes and their validation (docs/reference/events.md#envelope)."""

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from event_stream.errors import InvalidEventError, Reason, first_problem
from event_stream.events.json_body import BODY_BYTES_MAX, json_kind, parse_json
from event_stream.events.rfc3339 import parse_time

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
TENANT_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
# RFC 3986: unreserved, reserved and percent-encoded characters, at most one fragment.
_URI_REFERENCE = (
    r"^([A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*(#([A-Za-z0-9\-._~:/?@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)?$"
)
_COMPILED = {pattern: re.compile(pattern.strip("^$")) for pattern in (UUID_PATTERN, TENANT_PATTERN)}

EventId = Annotated[
    str,
    Field(
        pattern=UUID_PATTERN,
        description="Identifies the event within its tenant: a UUID in lower case, preferably a UUIDv7.",
    ),
]
ProjectId = Annotated[
    str, Field(pattern=UUID_PATTERN, description="The project that the event is about: a UUID in lower case.")
]
TenantId = Annotated[str, Field(pattern=TENANT_PATTERN, description="The tenant that the event belongs to.")]
Source = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        pattern=_URI_REFERENCE,
        description="Where the event happened: a URI reference (RFC 3986), such as `/watchdog`.",
    ),
]


class Envelope(BaseModel):
    """The attributes of an event. `projectid` is checked later, because some types ignore it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    specversion: Literal["1.0"]
    id: EventId
    source: Source
    type: Annotated[str, Field(min_length=1)]
    time_us: Annotated[int, BeforeValidator(parse_time), Field(alias="time")]
    tenantid: TenantId
    projectid: Any = None
    data: dict[str, Any]


def parse_envelope(body: bytes) -> Envelope:
    """Return the validated envelope of a body; raises InvalidEventError with TOO_LARGE, NOT_JSON or NOT_AN_EVENT."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidEventError(Reason.NOT_AN_EVENT, f"an event must be a JSON object, not a JSON {json_kind(value)}")
    try:
        return Envelope.model_validate(value)
    except ValidationError as error:
        raise InvalidEventError(Reason.NOT_AN_EVENT, first_problem(error)) from None


def claimed_identity(body: bytes) -> tuple[str | None, str | None]:
    """Return the tenant id and event id in a body, valid or not; None for an id that is missing or malformed."""
    if len(body) > BODY_BYTES_MAX:
        return (None, None)
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return (None, None)
    if not isinstance(value, dict):
        return (None, None)
    tenant_id, event_id = value.get("tenantid"), value.get("id")
    return (
        tenant_id if matches(TENANT_PATTERN, tenant_id) else None,
        event_id if matches(UUID_PATTERN, event_id) else None,
    )


def matches(pattern: str, value: object) -> bool:
    """Return whether a value is text that matches UUID_PATTERN or TENANT_PATTERN."""
    return isinstance(value, str) and _COMPILED[pattern].fullmatch(value) is not None
