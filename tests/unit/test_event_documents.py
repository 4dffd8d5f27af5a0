"""The JSON Schema and the AsyncAPI document are valid, and agree with `decode`."""

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from event_stream.documents.asyncapi import asyncapi_document
from event_stream.documents.json_schema import DIALECT, event_schema, events_schema, example_event
from event_stream.errors import InvalidEventError
from event_stream.events.decoding import decode
from event_stream.events.event_types import TENANT_LEVEL, TYPES
from tests.support.events import body, event, mixed, spelled_freely

ASYNCAPI_SCHEMA = Path(__file__).parents[1] / "data" / "asyncapi" / "3.0.0.json"
EVENTS = Draft202012Validator(events_schema())

Event = dict[str, Any]
Broken = tuple[str, Event]


def accepts(made: Event) -> bool:
    try:
        decode(body(made))
    except InvalidEventError:
        return False
    return True


def test_the_schema_of_the_events_is_valid_json_schema() -> None:
    assert events_schema()["$schema"] == DIALECT == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(events_schema())


def test_the_asyncapi_document_is_valid_by_the_schema_of_the_specification() -> None:
    validator = Draft7Validator(json.loads(ASYNCAPI_SCHEMA.read_text()))
    document = json.loads(json.dumps(asyncapi_document()))
    validator.validate(document)
    document["components"]["messages"]["repo.connected.v1"]["examples"] = {}
    assert not validator.is_valid(document)


def test_every_reference_in_the_asyncapi_document_has_a_target() -> None:
    document = asyncapi_document()
    references = list(_references(document))
    assert len(references) == 2 * len(TYPES) + 2
    for reference in references:
        found = document
        for name in reference.removeprefix("#/").split("/"):
            found = found[name]


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for each in node.values():
            yield from _references(each)
    if isinstance(node, list):
        for each in node:
            yield from _references(each)


@pytest.mark.parametrize("type_", TYPES)
def test_the_examples_of_a_type_are_accepted(type_: str) -> None:
    (in_schema,) = events_schema()["$defs"][type_]["examples"]
    (in_message,) = asyncapi_document()["components"]["messages"][type_]["examples"]
    for example in (in_schema, in_message["payload"], example_event(type_)):
        assert decode(body(example)).type == type_
        EVENTS.validate(example)
        Draft7Validator(event_schema(type_)).validate(example)


def test_the_examples_are_distinct_events() -> None:
    assert len({example_event(type_)["id"] for type_ in TYPES}) == len(TYPES)


@pytest.mark.parametrize("type_", TYPES)
def test_every_member_is_described(type_: str) -> None:
    schema = event_schema(type_)
    members = [*schema["properties"].values(), *schema["properties"]["data"]["properties"].values()]
    assert all(each["description"].endswith(".") for each in [schema, *members])


@pytest.mark.parametrize("type_", TYPES)
def test_an_event_that_violates_the_schema_is_refused(type_: str) -> None:
    broken = list(_broken(type_))
    assert len(broken) > 15
    for rule, made in broken:
        assert not EVENTS.is_valid(made), rule
        assert not accepts(made), rule


def _broken(type_: str) -> Iterator[Broken]:
    """Yield the example of a type with one rule of its schema broken, once for each rule."""
    schema, example = event_schema(type_), example_event(type_)
    for path, member in (([], schema), (["data"], schema["properties"]["data"])):
        for name in member.get("required", []):
            changed = deepcopy(example)
            del _at(changed, path)[name]
            yield f"{name} is missing", changed
        for name, rules in member["properties"].items():
            for rule, value in _wrong_values(rules):
                changed = deepcopy(example)
                _at(changed, path)[name] = value
                yield f"{name}: {rule}", changed


def _at(made: Event, path: list[str]) -> Event:
    return made[path[0]] if path else made


def _wrong_values(rules: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    alternatives = rules.get("anyOf", [rules])
    types = {each["type"] for each in alternatives if "type" in each}
    wrong_type = {"string": 1, "boolean": 1, "object": [], "integer": True, "null": []}
    for each in alternatives:
        if "type" in each:
            yield "type", wrong_type[each["type"]]
        if "minimum" in each:
            yield "minimum", each["minimum"] - 1
        if "maximum" in each:
            yield "maximum", each["maximum"] + 1
        if "const" in each:
            yield "const", "no such value"
        if "enum" in each:
            yield "enum", "no such value"
        if "pattern" in each:
            yield "pattern", "a b ü\x07"
        if each.get("minLength"):
            yield "minLength", ""
        if "maxLength" in each:
            yield "maxLength", "x" * (each["maxLength"] + 1)
    if types and "null" not in types:
        yield "null", None


@pytest.mark.parametrize(
    "data",
    [
        {"passed": True, "alertFired": True, "suppressedReason": None, "summary": ""},
        {"passed": True, "alertFired": False, "suppressedReason": "dedup", "summary": ""},
        {"passed": True, "alertFired": False, "suppressedReason": None, "summary": "x"},
        {"passed": False, "alertFired": True, "suppressedReason": "dedup", "summary": ""},
    ],
)
def test_an_evaluation_with_an_impossible_outcome_is_refused(data: dict[str, Any]) -> None:
    made = event("watchdog.evaluated.v1", data)
    assert not EVENTS.is_valid(made)
    assert not accepts(made)


def test_an_unknown_type_is_refused() -> None:
    made = event() | {"type": "analysis.created.v2"}
    assert not EVENTS.is_valid(made)
    assert not accepts(made)


def test_accepted_events_are_valid() -> None:
    for made in [*mixed(300), *spelled_freely(mixed(300))]:
        EVENTS.validate(made)


# Python's `$` also matches before a line feed at the end, which the regular expressions of JSON Schema do not.
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\n"), max_size=70)
values = (
    text
    | st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.lists(text, max_size=2)
    | st.sampled_from(
        [
            "",
            "x" * 65,
            "x" * 256,
            "x" * 1001,
            "high",
            "dedup",
            "1.0",
            "a-1",
            "A",
            "a.b:c",
            "x\x7f",
            "é" * 128,
            "y" * 129,
        ]
    )
)


@given(st.sampled_from(list(TYPES)), st.data())
def test_the_schema_and_decode_agree_on_any_value_of_any_member(type_: str, data: st.DataObject) -> None:
    made = event(type_)
    # Times are skipped: JSON Schema cannot check the calendar.
    places = [(made, name) for name in [*made, "data_base64"] if name != "time"]
    members = event_schema(type_)["properties"]["data"]["properties"]
    places += [(made["data"], name) for name in members]
    where, name = data.draw(st.sampled_from(places))
    where[name] = data.draw(values)
    assert EVENTS.is_valid(made) == accepts(made)


@pytest.mark.parametrize("type_", sorted(TENANT_LEVEL))
def test_the_project_of_a_tenant_level_type_is_described_as_ignored(type_: str) -> None:
    assert "Ignored" in event_schema(type_)["properties"]["projectid"]["description"]
    assert EVENTS.is_valid(event(type_, projectid=7))
