"""`decode_logged`: decode events from the event log, which were validated before they were stored."""

from functools import cache
from typing import Annotated, Any

from pydantic import StringConstraints, TypeAdapter

from event_stream.events.adapters import json_object_type
from event_stream.events.decoding import decode
from event_stream.events.envelope import EventKey
from event_stream.events.event import Event, build_event
from event_stream.events.event_types import TENANT_LEVEL, TYPES
from event_stream.events.rfc3339 import TimeText


def decode_logged(body: bytes, type_: str) -> Event:
    """Return the event in `body`, which was stored as an event of this type.

    Only the data's rules are checked again, because folds rely on them, and ids are normalised. Checking form and the
    whole envelope too would take twice as long. Raises InvalidEventError if the bytes are not such an event.
    """
    try:
        data: Any = TYPES[type_]
        return build_event(_validator(type_, data).validate_json(body), body)
    except (KeyError, ValueError):
        return decode(body)  # raises with the reason


@cache
def _validator(type_: str, data: Any) -> Any:
    """Return the validator of the members that make an `Event`; built on first use, as most processes need none."""
    members: dict[str, Any] = {
        "source": str,
        "id": EventKey,
        "type": str,
        "time": TimeText,
        "tenantid": str,
        "data": data,
    }
    if type_ not in TENANT_LEVEL:
        members["projectid"] = Annotated[str, StringConstraints(to_lower=True)]
    return TypeAdapter(json_object_type(members)).validator
