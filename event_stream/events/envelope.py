"""The CloudEvents 1.0 envelope: its attributes and their validation (docs/reference/events.md#envelope)."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import from_json

from event_stream.errors import InvalidEventError, Reason
from event_stream.events.event_key import event_key
from event_stream.events.json_body import BODY_BYTES_MAX, describe_value, parse_json
from event_stream.events.patterns import (
    LOWER_UUID_PATTERN,
    TENANT_PATTERN,
    URI_REFERENCE_PATTERN,
    UUID_PATTERN,
    matches,
)
from event_stream.events.problems import first_problem
from event_stream.events.rfc3339 import parse_time

_ID_LENGTH_MAX = 128
_SOURCE_LENGTH_MAX = 255

EventId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=_ID_LENGTH_MAX,
        description="Identifies the event within its tenant and source. A UUIDv7 is recommended; a UUID identifies the"
        " event whatever its source and letter case.",
    ),
]
ProjectId = Annotated[
    str,
    Field(pattern=UUID_PATTERN, description="The project that the event is about: a UUID in any letter case."),
    StringConstraints(to_lower=True),
]
TenantId = Annotated[str, Field(pattern=TENANT_PATTERN, description="The tenant that the event belongs to.")]
Source = Annotated[
    str,
    Field(
        min_length=1,
        max_length=_SOURCE_LENGTH_MAX,
        pattern=URI_REFERENCE_PATTERN,
        description="Where the event happened: a URI reference (RFC 3986), such as `/watchdog`.",
    ),
]


def _as_event_key(id_: str, info: ValidationInfo) -> str:
    return event_key(id_, info.data.get("source", ""))


# Nearly every id is its own key. Python code runs only for the others: docs/decisions/0022-validate-in-one-pass.md
EventKey = Annotated[
    Annotated[str, Field(pattern=LOWER_UUID_PATTERN)] | Annotated[EventId, AfterValidator(_as_event_key)],
    Field(union_mode="left_to_right"),
    WithJsonSchema(TypeAdapter(EventId).json_schema()),
]
"""An `id` that becomes the event key; `source` must be validated before it."""


def _refuse_base64(value: object) -> None:
    if value is not None:
        raise ValueError("is not supported; send the JSON object itself in `data`")


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
    data_base64: Annotated[None, BeforeValidator(_refuse_base64)] = None
    data: dict[str, Any]


def parse_envelope(body: bytes) -> Envelope:
    """Return the validated envelope of a body; raises InvalidEventError with TOO_LARGE, NOT_JSON or NOT_AN_EVENT."""
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidEventError(Reason.NOT_AN_EVENT, f"must be one JSON object; it is a JSON {describe_value(value)}")
    try:
        return Envelope.model_validate(value)
    except ValidationError as error:
        raise InvalidEventError(Reason.NOT_AN_EVENT, first_problem(error)) from None


def claimed_identity(body: bytes) -> tuple[str | None, str | None]:
    """Return the tenant id and event key of a body, valid or not; None for one that is missing or malformed."""
    if len(body) > BODY_BYTES_MAX:
        return (None, None)
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return (None, None)
    if not isinstance(value, dict):
        return (None, None)
    tenant_id = value.get("tenantid")
    return (tenant_id if matches(TENANT_PATTERN, tenant_id) else None, _claimed_key(value))


def _claimed_key(value: dict[str, Any]) -> str | None:
    id_, source = value.get("id"), value.get("source")
    if not isinstance(id_, str) or not 0 < len(id_) <= _ID_LENGTH_MAX:
        return None
    if isinstance(source, str) and matches(URI_REFERENCE_PATTERN, source):
        return event_key(id_, source)
    return event_key(id_, "") if matches(UUID_PATTERN, id_) else None


def claimed_source(body: bytes) -> str | None:
    """Return the source in a body, whether the rest is valid or not; None if it is missing or malformed."""
    if len(body) > BODY_BYTES_MAX:
        return None
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError:
        return None
    source = value.get("source") if isinstance(value, dict) else None
    is_valid = isinstance(source, str) and 0 < len(source) <= _SOURCE_LENGTH_MAX
    return source if is_valid and matches(URI_REFERENCE_PATTERN, source) else None
