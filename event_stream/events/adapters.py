"""Pydantic types for the JSON of an event, from which validators and JSON Schemas are built."""

from typing import Any, Literal, NotRequired

from pydantic import ConfigDict, with_config
from typing_extensions import TypedDict

from event_stream.events.envelope import EventKey, ProjectId, Source, TenantId
from event_stream.events.event_types import TENANT_LEVEL, Data
from event_stream.events.rfc3339 import TimeText


def event_object_type(type_: str, data: type[Data]) -> Any:
    """Return the type of a whole event of one event type: the envelope with its data."""
    members: dict[str, Any] = {
        "specversion": Literal["1.0"],
        "source": Source,
        "id": EventKey,
        "type": Literal[type_],
        "time": TimeText,
        "tenantid": TenantId,
        "data_base64": NotRequired[None],
        "data": data,
    }
    if type_ not in TENANT_LEVEL:
        members["projectid"] = ProjectId
    return json_object_type(members)


def json_object_type(members: dict[str, Any]) -> Any:
    """Return the type of a JSON object with these members, read as a dict; other members are ignored.

    The type is a dict, because building an object would take half as long again.
    """
    object_type: Any = TypedDict("JsonObject", members)  # type: ignore[misc]  # mypy wants to see the members
    # Only keys are cached: values rarely repeat, so a cache for them would cost more time than it saves.
    return with_config(ConfigDict(strict=True, extra="ignore", cache_strings="keys"))(object_type)
