"""What was accepted once: bytes of the event log back to the Event that they were, without all that arrival asks."""

from functools import cache
from typing import Any

from pydantic import ConfigDict, TypeAdapter, with_config
from typing_extensions import TypedDict

from event_stream.envelope import TimeText
from event_stream.types import TENANT_LEVEL, TYPES, Event, decode, event_of


def decode_accepted(body: bytes, type_: str) -> Event:
    """Return what `decode` returns of bytes that it has accepted before as an event of this type.

    The data's rules are checked again, as folds rest on them; those of form and envelope are not: with them it would
    take twice as long. Raises InvalidEventError where the bytes are no such event any more.
    """
    try:
        return event_of(_reader(type_, TYPES[type_]).validate_json(body), body)
    except (KeyError, ValueError):
        return decode(body)  # which says why not


@cache
def _reader(type_: str, data: Any) -> Any:
    """Return what reads the members that an Event is made of: made when it is wanted, in most processes never."""
    members: dict[str, Any] = {"id": str, "type": str, "time": TimeText, "tenantid": str, "data": data}
    if type_ not in TENANT_LEVEL:
        members["projectid"] = str
    whole: Any = TypedDict("Accepted", members)  # type: ignore[misc]
    adapter: TypeAdapter[Any] = TypeAdapter(with_config(ConfigDict(strict=True, extra="ignore"))(whole))
    return adapter.validator
