"""`decode`: validate the bytes of an event, and return the `Event` or the reason why it is invalid.

A valid event takes one pass over its bytes. Only an event that fails it is checked rule by rule, to find the reason
(docs/reference/events.md#reasons, docs/decisions/0022-validate-in-one-pass.md).
"""

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple, Union

from pydantic import Field, TypeAdapter, ValidationError

from event_stream.errors import InvalidEventError, Reason
from event_stream.events.adapters import event_object_type
from event_stream.events.envelope import parse_envelope
from event_stream.events.event import Event, build_event, partition_of
from event_stream.events.event_types import TENANT_LEVEL, TYPES, version_of
from event_stream.events.json_body import passes_quick_check
from event_stream.events.patterns import ALLOWED, TYPE_PATTERN, UUID_PATTERN, matches
from event_stream.events.problems import first_problem, problem
from event_stream.events.rfc3339 import format_time

_CHUNK = 20  # larger chunks are not faster, and one invalid event makes its whole chunk be validated twice


class Arrival(NamedTuple):
    """Where an entry arrived, and the time `now_ms` that an event's time is held against."""

    partition: int
    partitions: int
    now_ms: int
    max_clock_skew_s: int

    def accepts(self, events: Sequence[Event]) -> bool:
        """Return whether all events belong to this partition and are not ahead of the clock."""
        tenants = {event.tenant_id for event in events}
        are_owned = all(partition_of(tenant_id, self.partitions) == self.partition for tenant_id in tenants)
        latest_us = max((event.time_us for event in events), default=0)
        return are_owned and latest_us <= _latest_us(self.now_ms, self.max_clock_skew_s)


def decode(body: bytes, arrival: Arrival | None = None) -> Event:
    """Return the event in `body`, validated by all rules that need no database.

    Without `arrival`, partition and clock are not checked. Use this for events that are already in the log.
    Raises InvalidEventError with the first reason that applies.
    """
    events = _decode_fast([body])
    if events is None or not (arrival is None or arrival.accepts(events)):
        return _decode_with_reason(body, arrival)
    return events[0]


def decode_batch(bodies: Sequence[bytes], arrival: Arrival) -> list[Event] | None:
    """Return the events of bodies that all arrived at `arrival` or later; None if any of them may be invalid.

    This takes two thirds of the time of decoding them one by one. After None, `decode` each body.
    """
    events = _decode_fast(bodies)
    return events if events is not None and arrival.accepts(events) else None


def decode_all(bodies: Sequence[bytes]) -> list[Event]:
    """Return the event of each body without checking arrival; raises InvalidEventError for the first invalid one."""
    events: list[Event] = []
    for first in range(0, len(bodies), _CHUNK):
        chunk = bodies[first : first + _CHUNK]
        events += _decode_fast(chunk) or map(decode, chunk)
    return events


def check_clock(time_us: int, now_ms: int, max_clock_skew_s: int) -> None:
    """Raise InvalidEventError with TIME_IN_FUTURE if `time_us` is too far ahead of `now_ms`."""
    if time_us > _latest_us(now_ms, max_clock_skew_s):
        time, now = format_time(time_us), format_time(now_ms * 1000)
        detail = f"time: {time} is more than {max_clock_skew_s} s ahead of now, {now}"
        raise InvalidEventError(Reason.TIME_IN_FUTURE, detail)


def build_adapter() -> TypeAdapter[Any]:
    """Return the adapter that picks the event type by name, and validates envelope and data in one pass."""
    event_objects = tuple(event_object_type(*each) for each in TYPES.items())
    any_event: Any = Annotated[Union[event_objects], Field(discriminator="type")]  # noqa: UP007
    return TypeAdapter(any_event)


_VALIDATOR = build_adapter().validator


def _decode_fast(bodies: Sequence[bytes]) -> list[Event] | None:
    """Return the events, validated in one pass over each body; None if any of them may be invalid."""
    if not (passes_quick_check(b"".join(bodies)) or all(map(passes_quick_check, bodies))):
        return None
    try:
        return [build_event(_VALIDATOR.validate_json(body), body) for body in bodies]
    except ValueError:
        return None


def _decode_with_reason(body: bytes, arrival: Arrival | None) -> Event:
    """Return the event, or raise InvalidEventError with the first reason that applies; checks rule by rule."""
    envelope = parse_envelope(body)
    if envelope.type in TYPES and envelope.type not in TENANT_LEVEL:
        _check_project_id(envelope.projectid)
    if arrival is not None:
        _check_partition(envelope.tenantid, arrival)
    if envelope.type not in TYPES:
        raise InvalidEventError(Reason.UNKNOWN_TYPE, _unknown_type_detail(envelope.type))
    try:
        event = build_event(_VALIDATOR.validate_json(body), body)
    except ValidationError as error:
        raise InvalidEventError(Reason.INVALID_DATA, first_problem(error, inside=envelope.type)) from None
    if arrival is not None:
        check_clock(event.time_us, arrival.now_ms, arrival.max_clock_skew_s)
    return event


def _check_project_id(value: object) -> None:
    if not matches(UUID_PATTERN, value):
        raise InvalidEventError(Reason.NOT_AN_EVENT, problem("projectid", value, f"must be {ALLOWED[UUID_PATTERN]}"))


def _check_partition(tenant_id: str, arrival: Arrival) -> None:
    owner = partition_of(tenant_id, arrival.partitions)
    if owner != arrival.partition:
        raise InvalidEventError(
            Reason.WRONG_PARTITION,
            f"tenant {tenant_id} belongs to partition {owner} of {arrival.partitions}, not {arrival.partition}",
        )


def _unknown_type_detail(type_: str) -> str:
    if not matches(TYPE_PATTERN, type_):
        return problem("type", type_, f"is not an event type of this release; types are {ALLOWED[TYPE_PATTERN]}")
    name, version = version_of(type_)
    newest = max(
        (known_version for known_name, known_version in map(version_of, TYPES) if known_name == name), default=0
    )
    if not 0 < newest < version:
        return f"type: {type_} is not an event type of this release"
    return (
        f"type: {type_} is of a later release (this one supports versions up to v{newest}); upgrade the workers,"
        " then run `projector dead-letters replay --reason unknown_type`"
    )


def _latest_us(now_ms: int, max_clock_skew_s: int) -> int:
    """Return the latest allowed time of an event at `now_ms`."""
    return (now_ms + max_clock_skew_s * 1000) * 1000
