"""`decode`: bytes to an Event by every rule that needs no database, or the reason why not.

The rules: docs/reference/events.md#reasons.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from event_stream.envelope import (
    UUID_PATTERN,
    EventId,
    InvalidEventError,
    ProjectId,
    Reason,
    Source,
    TenantId,
    TimeText,
    is_plain,
    matches,
    parse,
    problem_in,
    time_text,
)
from event_stream.event_types import TENANT_LEVEL, TYPES, Data, Event, build_event, partition_of, version_of

_CHUNK = 20  # more are no cheaper, and one that is wrong has so many judged twice


class Arrival(NamedTuple):
    """Where and when an entry arrived, which some of the rules depend on; `at_ms` is the entry's own id."""

    partition: int
    partitions: int
    at_ms: int
    max_clock_skew_s: int

    def accepts(self, events: Sequence[Event]) -> bool:
        """Return whether events may have arrived there and then, each of them."""
        tenants = {event.tenant_id for event in events}
        are_home = all(partition_of(tenant_id, self.partitions) == self.partition for tenant_id in tenants)
        latest_us = max((event.time_us for event in events), default=0)
        return are_home and latest_us <= _latest_us(self.at_ms, self.max_clock_skew_s)


def decode(body: bytes, arrival: Arrival | None = None) -> Event:
    """Return the event that `body` holds, by every rule of docs/reference/events.md#reasons that needs no database.

    Without `arrival` the rules about partition and clock are left out, which is right for what is already in the log.
    Raises InvalidEventError with the first reason that holds.
    """
    events = _decode_fast([body])
    if events is None or not (arrival is None or arrival.accepts(events)):
        return _decode_with_reason(body, arrival)
    return events[0]


def decode_batch(bodies: Sequence[bytes], arrival: Arrival) -> list[Event] | None:
    """Return the events of bodies that arrived there, then or later, if nothing is wrong with any: so it is with most.

    None says nothing but that `decode` has to look at each. Together they cost two thirds of what they do one by one.
    """
    events = _decode_fast(bodies)
    return events if events is not None and arrival.accepts(events) else None


def decode_all(bodies: Sequence[bytes]) -> list[Event]:
    """Return of each of the bodies what `decode` returns; raises as it does, for the first that is not valid."""
    events: list[Event] = []
    for first in range(0, len(bodies), _CHUNK):
        some = bodies[first : first + _CHUNK]
        events += _decode_fast(some) or map(decode, some)
    return events


def check_clock(time_us: int, at_ms: int, max_clock_skew_s: int) -> None:
    """Raise InvalidEventError with TIME_IN_FUTURE if `time_us` is too far ahead of the entry's own id, `at_ms`."""
    if time_us > _latest_us(at_ms, max_clock_skew_s):
        raise InvalidEventError(
            Reason.TIME_IN_FUTURE,
            f"time: {time_text(time_us)} is more than {max_clock_skew_s} s ahead of the entry's own id,"
            f" {time_text(at_ms * 1000)}",
        )


def _latest_us(at_ms: int, max_clock_skew_s: int) -> int:
    """Return the latest time that an event may have whose entry's own id is of `at_ms`."""
    return (at_ms + max_clock_skew_s * 1000) * 1000


def event_type_adapter(type_: str, data: type[Data]) -> Any:
    """Return the envelope of one type with its data inside: a dict, as an object would take half as long again."""
    members: dict[str, Any] = {
        "specversion": Literal["1.0"],
        "id": EventId,
        "source": Source,
        "type": Literal[type_],
        "time": TimeText,
        "tenantid": TenantId,
        "data": data,
    }
    if type_ not in TENANT_LEVEL:
        members["projectid"] = ProjectId
    return json_object_type(members)


def json_object_type(members: dict[str, Any]) -> Any:
    """Return the type of a JSON object that is read as a dict of these members; others are ignored."""
    made: Any = TypedDict("Whole", members)  # type: ignore[misc]  # mypy wants to see the members
    # Values are rarely seen again, and to look for each of them among those kept costs more than to make it anew.
    return with_config(ConfigDict(strict=True, extra="ignore", cache_strings="keys"))(made)


def _union_of_types() -> TypeAdapter[Any]:
    """Return what tells the types apart by their name, and checks envelope and data of each at once."""
    of_types = tuple(event_type_adapter(*each) for each in TYPES.items())
    envelopes: Any = Annotated[Union[of_types], Field(discriminator="type")]  # noqa: UP007
    return TypeAdapter(envelopes)


_VALIDATOR = _union_of_types().validator


def _decode_fast(bodies: Sequence[bytes]) -> list[Event] | None:
    """Return the events if nothing is wrong with any of them, in one pass over the bytes of each.

    None says nothing but that `_judged` has to look.
    """
    if not (is_plain(b"".join(bodies)) or all(map(is_plain, bodies))):
        return None
    try:
        return [build_event(_VALIDATOR.validate_json(body), body) for body in bodies]
    except ValueError:
        return None


def _decode_with_reason(body: bytes, arrival: Arrival | None) -> Event:
    """Return the event, or raise the first reason that holds, rule by rule."""
    envelope = parse(body)
    if envelope.type in TYPES and envelope.type not in TENANT_LEVEL:
        _check_project_id(envelope.projectid)
    if arrival is not None:
        _check_partition(envelope.tenantid, arrival)
    if envelope.type not in TYPES:
        raise InvalidEventError(Reason.UNKNOWN_TYPE, f"type: {envelope.type!r:.100} {_unknown(envelope.type)}")
    try:
        event = build_event(_VALIDATOR.validate_json(body), body)
    except ValidationError as error:
        raise InvalidEventError(Reason.INVALID_DATA, problem_in(error, inside=envelope.type)) from None
    if arrival is not None:
        check_clock(event.time_us, arrival.at_ms, arrival.max_clock_skew_s)
    return event


def _unknown(type_: str) -> str:
    name, version = version_of(type_)
    newest = max((known for other, known in map(version_of, TYPES) if other == name), default=0)
    if not 0 < newest < version:
        return "is not known to this release"
    return (
        f"is of a later release, this one knows up to v{newest}: upgrade the workers,"
        " then `projector dead-letters replay --reason unknown_type`"
    )


def _check_project_id(value: object) -> None:
    if not matches(UUID_PATTERN, value):
        raise InvalidEventError(
            Reason.NOT_AN_EVENT, f"projectid: this type needs a lower-case canonical UUID, not {value!r:.80}"
        )


def _check_partition(tenant_id: str, arrival: Arrival) -> None:
    right = partition_of(tenant_id, arrival.partitions)
    if right != arrival.partition:
        raise InvalidEventError(
            Reason.WRONG_PARTITION,
            f"tenant {tenant_id} belongs to partition {right} of {arrival.partitions}, not {arrival.partition}",
        )
