"""Encode an event, given as a mapping or a CloudEvents SDK object, as structured JSON."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from pydantic_core import PydanticSerializationError, to_json

from event_stream.errors import InvalidEventError, Reason


@runtime_checkable
class CloudEvent(Protocol):
    """The methods that events of every version of the CloudEvents SDK share."""

    def get_attributes(self) -> Mapping[str, Any]:
        """Return the context attributes."""

    def get_data(self) -> Any:
        """Return the data."""


def encode(event: Mapping[str, Any] | CloudEvent) -> bytes:
    """Return the structured JSON of an event; raises InvalidEventError for another type, or a value that JSON lacks."""
    try:
        # isinstance with a protocol takes as long as writing the JSON, so it is skipped for dicts.
        return to_json(event if isinstance(event, dict) else _mapping(event), inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidEventError(Reason.NOT_JSON, str(error)) from None


def _mapping(event: Mapping[str, Any] | CloudEvent) -> Mapping[str, Any]:
    if isinstance(event, CloudEvent):
        return {**event.get_attributes(), "data": event.get_data()}
    if isinstance(event, Mapping):
        return event
    raise InvalidEventError(Reason.NOT_AN_EVENT, f"must be a dict or a CloudEvent, not a {type(event).__name__}")
