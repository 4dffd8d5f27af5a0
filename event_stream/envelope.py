"""The CloudEvents 1.0 envelope: from bytes to checked attributes, or the reason why not.

The rules: docs/reference/events.md#envelope.
"""

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from event_stream.errors import EventStreamError

BODY_BYTES_MAX = 65_536
DEPTH_MAX = 64
DETAIL_LENGTH_MAX = 300

UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
TENANT_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"
# RFC 3986: unreserved, reserved and percent-encoded characters, at most one fragment.
_URI_REFERENCE = (
    r"^([A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*(#([A-Za-z0-9\-._~:/?@!$&'()*+,;=]|%[0-9A-Fa-f]{2})*)?$"
)
# RFC 3339 date-time; the ranges that datetime.fromisoformat would stretch are spelled out.
_HOUR_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME_PATTERN = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_HOUR_MINUTE}:[0-5][0-9](\.[0-9]+)?(Z|[+-]{_HOUR_MINUTE})$"
_COMPILED = {pattern: re.compile(pattern.strip("^$")) for pattern in (UUID_PATTERN, TENANT_PATTERN, _TIME_PATTERN)}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_SHOWN = datetime(1970, 1, 1)  # noqa: DTZ001 (in UTC, but shown without an offset)
_SECONDS_LENGTH, _FRACTION_LENGTH_MAX = len("2026-04-25T14:30:12Z"), len(".123456")
_MICROSECOND = timedelta(microseconds=1)
_LATEST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND  # an offset can lead past the year 9999


class Reason(StrEnum):
    """Why an entry can never be applied, in the order of the checks (docs/reference/events.md#reasons)."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_AN_EVENT = "not_an_event"
    WRONG_PARTITION = "wrong_partition"
    UNKNOWN_TYPE = "unknown_type"
    INVALID_DATA = "invalid_data"
    TIME_IN_FUTURE = "time_in_future"
    ID_CONFLICT = "id_conflict"
    FOLD_FAILED = "fold_failed"


class InvalidEventError(EventStreamError):
    """An event that can never be applied: `reason` says which rule, `detail` which value and what is allowed."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = printable(detail)
        super().__init__(f"{reason}: {self.detail}")


def time_us_of(text: object) -> int:
    """Return an RFC 3339 time as microseconds since 1970 UTC; digits past the sixth of a fraction are cut.

    Raises ValueError for anything that docs/reference/events.md#time does not allow.
    """
    if not isinstance(text, str) or not matches(_TIME_PATTERN, text):
        raise ValueError("must be RFC 3339 with an offset, such as 2026-04-25T14:30:12Z")
    return time_us_in(text)


def time_us_in(text: str) -> int:
    """Return what `time_us_of` does of a text that has the form of a `TimeText`; raises ValueError if it is no time."""
    time_us = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
    if time_us < 0:
        raise ValueError("must be 1970 or later")
    return time_us


def time_text(time_us: int) -> str:
    """Return microseconds since 1970 UTC as RFC 3339 with `Z`; a fraction only if not zero, without trailing zeros."""
    text = (_EPOCH_SHOWN + min(time_us, _LATEST_US) * _MICROSECOND).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"


EventId = Annotated[
    str,
    Field(pattern=UUID_PATTERN, description="Names the event within its tenant: a UUID in lower case, best a UUIDv7."),
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
TimeText = Annotated[
    str,
    Field(
        pattern=_TIME_PATTERN,
        description="When the fact happened: RFC 3339 with an offset, 1970 or later. Digits of the fraction beyond"
        " microseconds are cut off.",
    ),
]


def shown_time(text: str) -> str:
    """Return an event's `time` as readers see it (`time_text`): nearly always it is written so already."""
    fraction = text[_SECONDS_LENGTH - 1 : -1]
    is_in_utc = text[-1] == "Z"
    is_shown_so = not fraction or (len(fraction) <= _FRACTION_LENGTH_MAX and fraction[-1] != "0")
    return text if is_in_utc and is_shown_so else time_text(time_us_in(text))


class Envelope(BaseModel):
    """The attributes of an event. `projectid` is checked where the type is known, as some types ignore it.

    The rules: docs/reference/events.md#envelope.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    specversion: Literal["1.0"]
    id: EventId
    source: Source
    type: Annotated[str, Field(min_length=1)]
    time_us: Annotated[int, BeforeValidator(time_us_of), Field(alias="time")]
    tenantid: TenantId
    projectid: Any = None
    data: dict[str, Any]


def is_plain(body: bytes) -> bool:
    """Return whether bytes are so short and plain that, if they are JSON at all, they break no rule about its form.

    Where several bodies are so when joined, each of them is.
    """
    if len(body) > BODY_BYTES_MAX or _may_break_a_rule_of_form(body):
        return False
    # One byte is found ten times as fast as several, and nearly always missed.
    return not (b"N" in body and b"NaN" in body) and not (b"I" in body and b"Infinity" in body)


def parse(body: bytes) -> Envelope:
    """Return the checked envelope of an entry's `event` field.

    Raises InvalidEventError with TOO_LARGE, NOT_JSON or NOT_AN_EVENT.
    """
    if len(body) > BODY_BYTES_MAX:
        raise InvalidEventError(Reason.TOO_LARGE, f"{len(body):,} bytes; at most {BODY_BYTES_MAX:,} are allowed")
    value = _json_value(body)
    if not isinstance(value, dict):
        raise InvalidEventError(Reason.NOT_AN_EVENT, f"a JSON {_json_kind(value)}; an event is a JSON object")
    try:
        return Envelope.model_validate(value)
    except ValidationError as error:
        raise InvalidEventError(Reason.NOT_AN_EVENT, problem_in(error)) from None


def claimed_identity(body: bytes) -> tuple[str | None, str | None]:
    """Return the tenant and event id that a body names, valid event or not; None where it names none that could be."""
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
    """Return whether a value is text that one of this module's anchored patterns describes, whole."""
    return isinstance(value, str) and _COMPILED[pattern].fullmatch(value) is not None


def equal_json(one: bytes, other: bytes) -> bool:
    """Return whether two accepted bodies are the same JSON value.

    Neither the order of members nor white space matters; numbers compare by exact value; `1` and `true` differ.
    """
    return one == other or _exact_json(one) == _exact_json(other)


def problem_in(error: ValidationError, inside: str = "") -> str:
    """Return the first problem of a pydantic error on one line: where, inside of what, what is allowed, what it was."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])).removeprefix(f"{inside}.")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing" or isinstance(first["input"], dict):
        return f"{where}: {message}"
    return f"{where}: {message}, not {first['input']!r:.80}"


def printable(text: str) -> str:
    """Return `text` cut to a length and freed of what a database or terminal might choke on."""
    clean = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return clean if len(clean) <= DETAIL_LENGTH_MAX else clean[: DETAIL_LENGTH_MAX - 1] + "…"


def _json_value(body: bytes) -> Any:
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidEventError(Reason.NOT_JSON, str(error)) from None
    if _may_break_a_rule_of_form(body):
        _check_tree(value)
    return value


def _may_break_a_rule_of_form(body: bytes) -> bool:
    """Return whether there are so many brackets, or an escape such, that nearly every event is spared a closer look."""
    return (b"\\" in body and b"\\u0000" in body) or body.count(b"{") + body.count(b"[") > DEPTH_MAX


def _check_tree(value: Any) -> None:
    level = [value]
    depth = 0
    while level:
        below: list[Any] = []
        for node in level:
            if isinstance(node, str) and "\x00" in node:
                raise InvalidEventError(Reason.NOT_JSON, "U+0000 in a string; leave it out")
            if isinstance(node, dict):
                below += node.keys()
                below += node.values()
            elif isinstance(node, list):
                below += node
        if any(isinstance(node, dict | list) for node in level):
            depth += 1
        if depth > DEPTH_MAX:
            raise InvalidEventError(Reason.NOT_JSON, f"nested deeper than {DEPTH_MAX}")
        level = below


def _json_kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return "string"
        case list():
            return "array"
        case _:
            return "number"


def _exact_json(body: bytes) -> Any:
    return _tagged(json.loads(body, parse_int=_exact_number, parse_float=_exact_number))


def _exact_number(literal: str) -> Decimal | tuple[str, str]:
    try:
        return Decimal(literal)
    except InvalidOperation:  # an exponent beyond what Decimal holds: only the same literal is the same number
        return ("number", literal)


def _tagged(value: Any) -> Any:
    """Make booleans unlike numbers, since Python holds 1 == True."""
    match value:
        case bool():
            return ("boolean", value)
        case dict():
            return {key: _tagged(member) for key, member in value.items()}
        case list():
            return [_tagged(item) for item in value]
        case _:
            return value
