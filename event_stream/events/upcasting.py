"""Upcasting: convert the data of an older event version to the newest, so that folds know only the newest.

How to add a version: docs/decisions/0034-upcast-to-the-newest-version.md
"""

from collections.abc import Callable, Collection
from typing import Any

from event_stream.events.event import Event
from event_stream.events.event_types import TYPES, Data, version_of

UPCASTERS: dict[str, Callable[[Any], Data]] = {}
"""For each version except the newest of its type: a pure function from its data to the next version's data."""


def upcast(event: Event) -> Event:
    """Return the event with its data in the newest version of its type.

    An exception from an upcaster passes through. It is a bug in this release, because the event was valid.
    """
    if event.type not in UPCASTERS:
        return event
    type_, data = event.type, event.data
    while type_ in UPCASTERS:
        data, type_ = UPCASTERS[type_](data), _next_version(type_)
        if type(data) is not TYPES[type_]:
            raise TypeError(
                f"the upcaster to {type_} returned {type(data).__name__} for {event.type};"
                f" it must return {TYPES[type_].__name__}"
            )
    return event._replace(data=data)


def types_upcast_to(data_classes: Collection[type[Data]]) -> frozenset[str]:
    """Return the event types, in all versions, whose data reaches a fold as one of these classes."""
    return frozenset(type_ for type_ in TYPES if TYPES[_newest_version(type_)] in data_classes)


def _newest_version(type_: str) -> str:
    while type_ in UPCASTERS:
        type_ = _next_version(type_)
    return type_


def _next_version(type_: str) -> str:
    name, version = version_of(type_)
    return f"{name}.v{version + 1}"
