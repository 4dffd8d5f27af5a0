"""A release to come: later versions of two types, brought in as a release does it, and folds that know only those.

Its rows are byte for byte those of this release, so that each can be held against the other.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from types import MappingProxyType
from typing import Any, Literal

import pytest

from event_stream import types, versions
from event_stream.types import (
    TYPES,
    Data,
    Event,
    Id,
    Name,
    Severity,
    SuppressedReason,
    Text,
    WatchdogEvaluated,
    WatchdogToggled,
)
from projections import activity, project
from projections.projection import Projection
from projections.registry import PROJECTIONS
from projections.store import Row


class WatchdogEvaluatedV2(Data):
    """One member says what three said."""

    rule_id: Id
    rule_name: Name
    outcome: Literal["passed", "fired", "silent"] | SuppressedReason
    severity: Severity
    summary: Text


class WatchdogToggledV2(Data):
    state: Literal["on", "off"]


class WatchdogToggledV3(Data):
    mode: Literal["off", "watching", "paging"]


def evaluated_v1_to_v2(old: WatchdogEvaluated) -> WatchdogEvaluatedV2:
    return WatchdogEvaluatedV2.model_validate(evaluated_as_v2(old.model_dump(by_alias=True)))


def toggled_v1_to_v2(old: WatchdogToggled) -> WatchdogToggledV2:
    return WatchdogToggledV2(state="on" if old.enabled else "off")


def toggled_v2_to_v3(old: WatchdogToggledV2) -> WatchdogToggledV3:
    return WatchdogToggledV3(mode="watching" if old.state == "on" else "off")


LATER_TYPES: Mapping[str, type[Data]] = {
    "watchdog.evaluated.v2": WatchdogEvaluatedV2,
    "watchdog.toggled.v2": WatchdogToggledV2,
    "watchdog.toggled.v3": WatchdogToggledV3,
}
LATER_UPCASTERS: Mapping[str, Callable[[Any], Data]] = {
    "watchdog.evaluated.v1": evaluated_v1_to_v2,
    "watchdog.toggled.v1": toggled_v1_to_v2,
    "watchdog.toggled.v2": toggled_v2_to_v3,
}


@contextmanager
def later_release(
    upcasters: Mapping[str, Callable[[Any], Data]] = MappingProxyType({}),
) -> Iterator[tuple[Projection, ...]]:
    """Be the later release within this block; yields its projections. `upcasters` are put in the place of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for type_, kind in LATER_TYPES.items():
            patch.setitem(TYPES, type_, kind)
        for type_, upcaster in {**LATER_UPCASTERS, **upcasters}.items():
            patch.setitem(versions.UPCASTERS, type_, upcaster)
        patch.setattr(types, "_VALIDATOR", _validator())
        yield tuple(LATER_PROJECTIONS.get(each.name, each) for each in PROJECTIONS)


@cache
def _validator() -> Any:
    return types._whole_events().validator


def native(event: dict[str, Any], version: int) -> dict[str, Any]:
    """Return a v1 event as a producer that writes a later version would have written it."""
    match event["type"], version:
        case "watchdog.evaluated.v1", 2:
            return event | {"type": "watchdog.evaluated.v2", "data": evaluated_as_v2(event["data"])}
        case "watchdog.toggled.v1", 2:
            state = "on" if event["data"]["enabled"] else "off"
            return event | {"type": "watchdog.toggled.v2", "data": {"state": state}}
        case "watchdog.toggled.v1", 3:
            mode = "watching" if event["data"]["enabled"] else "off"
            return event | {"type": "watchdog.toggled.v3", "data": {"mode": mode}}
        case _:
            return event


def evaluated_as_v2(data: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: data[name] for name in ("ruleId", "ruleName", "severity", "summary")}
    outcome = "passed" if data["passed"] else "fired" if data["alertFired"] else data["suppressedReason"] or "silent"
    return {"outcome": outcome, **rest}


def _fold(row: project.Project, event: Event) -> project.Project:
    match event.data:
        case WatchdogToggledV3(mode=mode):
            return row._replace(watchdog=row.watchdog.set(mode != "off", event.stamp))
        case _:
            return project.fold(row, event)


def _entry(event: Event) -> Row:
    data = event.data
    assert isinstance(data, WatchdogEvaluatedV2)
    is_reason = data.outcome not in ("passed", "fired", "silent")
    shown = {
        "passed": data.outcome == "passed",
        "alertFired": data.outcome == "fired",
        "suppressedReason": data.outcome if is_reason else None,
    }
    return activity.entry(event._replace(data=WatchdogEvaluated.model_validate(data.model_dump(by_alias=True) | shown)))


LATER_PROJECTIONS: Mapping[str, Projection] = {
    "project": replace(
        project.projection, fold=_fold, reads=project.projection.reads - {WatchdogToggled} | {WatchdogToggledV3}
    ),
    "activity": replace(activity.projection, entry=_entry, reads=frozenset({WatchdogEvaluatedV2})),
}
