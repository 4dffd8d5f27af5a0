"""Last-writer-wins values: `LWWRegister` for a single value, `LWWSet` for a set of ids.

The event with the greatest stamp decides a value, in whatever order events are folded (docs/reference/events.md#order).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Self, TypeAlias, TypeVar

from pydantic_core import from_json, to_json

T = TypeVar("T")

Stamp: TypeAlias = tuple[int, str]
"""(`time` in microseconds, event id) of the event that set a value. The greater stamp wins."""

NEVER: Stamp = (-1, "")


class LWWRegister(NamedTuple, Generic[T]):
    """A single value and the stamp of the event that set it; the stamp is NEVER if no event has set it."""

    value: T
    stamp: Stamp = NEVER

    def set(self, value: T, stamp: Stamp) -> "LWWRegister[T]":
        """Return the register after an event that sets it; unchanged if the stored event is later."""
        return LWWRegister(value, stamp) if stamp > self.stamp else self


@dataclass(frozen=True, slots=True)
class LWWSet:
    """Ids, each present or removed by its latest event. Removed ids stay, so that a late event cannot revive them."""

    by_id: Mapping[str, LWWRegister[bool]] = field(default_factory=dict)

    def set(self, member: str, present: bool, stamp: Stamp) -> "LWWSet":
        """Return the set after an event that adds or removes a member."""
        before = self.by_id.get(member, LWWRegister(value=False))
        after = before.set(present, stamp)
        return self if after is before else LWWSet({**self.by_id, member: after})

    @property
    def count(self) -> int:
        """How many ids are present."""
        return sum(register.value for register in self.by_id.values())

    def to_json(self) -> str:
        """Return `{"<id>": [present, time_us, "<event id>"]}`; equal sets give identical bytes."""
        return to_json({member: (each.value, *each.stamp) for member, each in sorted(self.by_id.items())}).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the set that `to_json` wrote."""
        return cls({key: LWWRegister(value, (time_us, id_)) for key, (value, time_us, id_) in from_json(text).items()})
