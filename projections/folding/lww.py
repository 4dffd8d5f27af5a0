"""Facts that can disagree: single values and memberships, each decided by its latest event.

docs/reference/events.md#order says which event is the latest.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Self, TypeAlias, TypeVar

from pydantic_core import from_json, to_json

T = TypeVar("T")

Stamp: TypeAlias = tuple[int, str]
"""When a fact was set: (`time` in microseconds, event id). The greater stamp wins."""

NEVER: Stamp = (-1, "")


class LWWRegister(NamedTuple, Generic[T]):
    """A single value and the stamp of the event that set it; `NEVER` while no event has."""

    value: T
    stamp: Stamp = NEVER

    def set(self, value: T, stamp: Stamp) -> "LWWRegister[T]":
        """Return the fact after an event that sets it, whatever the order in which events come."""
        return LWWRegister(value, stamp) if stamp > self.stamp else self


@dataclass(frozen=True, slots=True)
class LWWSet:
    """Ids, each present or removed by its latest event. Removed ones stay, or a late event would revive them."""

    by_id: Mapping[str, LWWRegister[bool]] = field(default_factory=dict)

    def set(self, member: str, present: bool, stamp: Stamp) -> "LWWSet":
        """Return the members after one was added or removed, whatever the order in which events come."""
        before = self.by_id.get(member, LWWRegister(value=False))
        after = before.set(present, stamp)
        return self if after is before else LWWSet({**self.by_id, member: after})

    @property
    def count(self) -> int:
        """How many ids are present."""
        return sum(fact.value for fact in self.by_id.values())

    def to_json(self) -> str:
        """Return `{"<id>": [present, time_us, "<event id>"]}`, the same bytes for equal members."""
        return to_json({member: (fact.value, *fact.stamp) for member, fact in sorted(self.by_id.items())}).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the members that `to_json` wrote."""
        return cls({key: LWWRegister(value, (time_us, id_)) for key, (value, time_us, id_) in from_json(text).items()})
