"""JSON Schemas (2020-12) of all event types, generated from the types with which `decode` validates."""

from functools import cache
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from event_stream.events.adapters import event_object_type
from event_stream.events.event_types import TENANT_LEVEL, TYPES

DIALECT = GenerateJsonSchema.schema_dialect
_EXAMPLE_PROJECT = "6f1c89bb-3b50-4c4a-9c5f-2f6f6a0b7c11"
_DESCRIPTION = (
    "An event as CloudEvents 1.0 in structured JSON: the value of the field `event` of an entry in a Redis stream."
    " JSON Schema cannot express some rules: at most 65,536 bytes; at most 64 levels of nesting; a `time` that exists,"
    " is not before 1970 and not ahead of the clock; the partition of the tenant; one content for each identity."
)
_MEMBERS = {
    "specversion": "The version of CloudEvents.",
    "id": "",
    "source": "",
    "type": "The name of the type and its version.",
    "time": "",
    "tenantid": "",
    "projectid": "Ignored, because the type is about the whole tenant.",
    "data_base64": "Not supported.",
    "data": "What happened.",
}
"""The members in the order of the documents, with descriptions of those that have none in their types."""


class _WithoutTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, _schema: Any) -> bool:
        """Return False, because a title would only repeat the member's name."""
        return False


@cache
def events_schema() -> dict[str, Any]:
    """Return the JSON Schema that describes an event of any type; each type has its own under `$defs`."""
    return {
        "$schema": DIALECT,
        "title": "Event",
        "description": _DESCRIPTION,
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": list(TYPES)}},
        "oneOf": [{"$ref": f"#/$defs/{type_}"} for type_ in TYPES],
        "$defs": {type_: event_schema(type_) for type_ in TYPES},
    }


@cache
def event_schema(type_: str) -> dict[str, Any]:
    """Return the JSON Schema of one event type: its envelope with its data."""
    generated = TypeAdapter(event_object_type(type_, TYPES[type_])).json_schema(schema_generator=_WithoutTitles)
    (data,) = generated["$defs"].values()
    del data["title"]
    members = generated["properties"] | {"data": data}
    return {
        "title": type_,
        "description": data["description"],
        "type": "object",
        "properties": {name: {"description": _MEMBERS[name]} | members.get(name, {}) for name in _MEMBERS},
        "required": [name for name in _MEMBERS if name in generated["required"]],
        "examples": [example_event(type_)],
    }


def example_event(type_: str) -> dict[str, Any]:
    """Return a valid event of a type, made from the examples of its members."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": _example_id(type_),
        "source": "/docs/example",
        "type": type_,
        "time": "2026-04-25T14:30:12Z",
        "tenantid": "ten_acme",
    }
    if type_ not in TENANT_LEVEL:
        event["projectid"] = _EXAMPLE_PROJECT
    properties = TypeAdapter(TYPES[type_]).json_schema()["properties"]
    return event | {"data": {name: member["examples"][0] for name, member in properties.items()}}


def _example_id(type_: str) -> str:
    return f"019dc520-5d20-7000-8000-{list(TYPES).index(type_):012x}"
