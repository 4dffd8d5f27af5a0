"""Versions of an event: how the data of an older one becomes that of the next, so that folds know the newest only."""

from collections.abc import Callable, Collection
from typing import Any

from event_stream.event_types import TYPES, Data, Event, version_of

UPCASTERS: dict[str, Callable[[Any], Data]] = {}
"""Of every version but the newest: a pure function from its data to the data of the next version."""


def upcast(event: Event) -> Event:
    """Return the event with the data that it would have in the newest version of its type.

    Raises what an upcaster raises: that is a bug of ours, as the event was found valid by its own version's rules.
    """
    if event.type not in UPCASTERS:
        return event
    type_, data = event.type, event.data
    while type_ in UPCASTERS:
        data, type_ = UPCASTERS[type_](data), _next(type_)
        if type(data) is not TYPES[type_]:
            raise TypeError(f"what becomes of {event.type} is no {type_} but {type(data).__name__}")
    return event._replace(data=data)


def types_of(kinds: Collection[type[Data]]) -> frozenset[str]:
    """Return the types, in all their versions, that come to a fold as one of these kinds of data."""
    return frozenset(type_ for type_ in TYPES if TYPES[_newest(type_)] in kinds)


def _newest(type_: str) -> str:
    while type_ in UPCASTERS:
        type_ = _next(type_)
    return type_


def _next(type_: str) -> str:
    name, version = version_of(type_)
    return f"{name}.v{version + 1}"
