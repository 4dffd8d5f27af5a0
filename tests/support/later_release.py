"""A later release: new versions of two event types with upcasters, and folds that know only the newest versions.

Its rows are byte-identical to those of this release, so the two can be compared.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import pytest

from event_stream.events import decoding, upcasting
from event_stream.events.event import Event
from event_stream.events.event_types import (
    TYPES,
    Data,
    FreeText,
    Id,
    Name,
    Severity,
    SuppressedReason,
    WatchdogEvaluated,
    WatchdogToggled,
)
from projections.folding.feed import Feed
from projections.folding.projection import Projection
from projections.folding.rollup import Rollup
from projections.read_models.registry import PROJECTIONS

Outcome: TypeAlias = Literal["passed", "fired", "silent"] | SuppressedReason


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogEvaluatedV2(Data):
    """`outcome` replaces three members of v1."""

    rule_id: Id
    rule_name: Name
    outcome: Outcome
    severity: Severity
    summary: FreeText


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogToggledV2(Data):
    state: Literal["on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchdogToggledV3(Data):
    mode: Literal["off", "watching", "paging"]


def evaluated_v1_to_v2(old: WatchdogEvaluated) -> WatchdogEvaluatedV2:
    return WatchdogEvaluatedV2(
        rule_id=old.rule_id,
        rule_name=old.rule_name,
        outcome=outcome(old.passed, old.alert_fired, old.suppressed_reason),
        severity=old.severity,
        summary=old.summary,
    )


def outcome(passed: bool, fired: bool, reason: SuppressedReason | None) -> Outcome:
    return "passed" if passed else "fired" if fired else reason or "silent"


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
    """Act as the later release within this block; yields its projections. `upcasters` override its own."""
    with pytest.MonkeyPatch.context() as patch:
        for type_, kind in LATER_TYPES.items():
            patch.setitem(TYPES, type_, kind)
        for type_, upcaster in {**LATER_UPCASTERS, **upcasters}.items():
            patch.setitem(upcasting.UPCASTERS, type_, upcaster)
        patch.setattr(decoding, "_VALIDATOR", _validator())
        yield tuple(_later(each) for each in PROJECTIONS)


@cache
def _validator() -> Any:
    return decoding.build_adapter().validator


def native(event: dict[str, Any], version: int) -> dict[str, Any]:
    """Return a v1 event as a producer of a later version would write it."""
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
    return {"outcome": outcome(data["passed"], data["alertFired"], data["suppressedReason"]), **rest}


def _later(projection: Projection) -> Projection:
    """Return the projection of the later release: it reads only the newest versions and produces the same rows."""
    reads = frozenset(_NEWEST.get(kind, kind) for kind in projection.reads)
    match projection:
        case Rollup(key=key, fold=fold):
            return replace(
                projection,
                reads=reads,
                key=lambda event: key(_as_first(event)),
                fold=lambda row, event: fold(row, _as_first(event)),
            )
        case Feed(entry=entry):
            return replace(projection, reads=reads, entry=lambda event: entry(_as_first(event)))
    raise TypeError(projection)


_NEWEST: Mapping[type[Data], type[Data]] = {WatchdogEvaluated: WatchdogEvaluatedV2, WatchdogToggled: WatchdogToggledV3}


def _as_first(event: Event) -> Event:
    """Return an event of a later version with its data in the form of v1."""
    match event.data:
        case WatchdogToggledV3(mode=mode):
            return event._replace(data=WatchdogToggled(enabled=mode != "off"))
        case WatchdogEvaluatedV2() as data:
            reason: Any = None if data.outcome in ("passed", "fired", "silent") else data.outcome
            first = WatchdogEvaluated(
                rule_id=data.rule_id,
                rule_name=data.rule_name,
                passed=data.outcome == "passed",
                alert_fired=data.outcome == "fired",
                suppressed_reason=reason,
                severity=data.severity,
                summary=data.summary,
            )
            return event._replace(data=first)
        case data:
            assert type(data) not in _NEWEST, "only the newest version reaches a fold"
            return event
