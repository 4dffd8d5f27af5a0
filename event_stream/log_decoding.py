"""What was accepted once: bytes of the event log back to the Event that they were, without all that arrival asks."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter

from event_stream.decoding import decode, json_object_type
from event_stream.envelope import TimeText
from event_stream.event_types import TENANT_LEVEL, TYPES, Event, build_event


def decode_logged(body: bytes, type_: str) -> Event:
    """Return what `decode` returns of bytes that it has accepted before as an event of this type.

    The data's rules are checked again, as folds rest on them; those of form and envelope are not: with them it would
    take twice as long. Raises InvalidEventError where the bytes are no such event any more.
    """
    try:
        kind: Any = TYPES[type_]
        return build_event(_reader(type_, kind).validate_json(body), body)
    except (KeyError, ValueError):
        return decode(body)  # which says why not


@cache
def _reader(type_: str, data: Any) -> Any:
    """Return what reads the members that an Event is made of: made when it is wanted, in most processes never."""
    members: dict[str, Any] = {"id": str, "type": str, "time": TimeText, "tenantid": str, "data": data}
    if type_ not in TENANT_LEVEL:
        members["projectid"] = str
    return TypeAdapter(json_object_type(members)).validator
