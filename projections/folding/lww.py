"""Last-writer-wins values: `LWWRegister` for a single value, `LWWSet` for a set of ids.

The event with the greatest stamp decides a value, in whatever order events are folded (docs/reference/events.md#order).
"""

from collections.abc import Iterator, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeAlias, TypeVar

from pydantic_core import from_json, to_json

T = TypeVar("T")

Stamp: TypeAlias = tuple[int, str]
"""(`time` in microseconds, event id) of the event that set a value. The greater stamp wins."""

NEVER: Stamp = (-1, "")

_Register: TypeAlias = Sequence[Any]
"""Whether an id is present, and the stamp of the event that decided it: `(present, time_us, event_id)`."""


class LWWRegister(NamedTuple, Generic[T]):
    """A single value and the stamp of the event that set it; the stamp is NEVER if no event has set it."""

    value: T
    stamp: Stamp = NEVER

    def set(self, value: T, stamp: Stamp) -> "LWWRegister[T]":
        """Return the register after an event that sets it; unchanged if the stored event is later."""
        return LWWRegister(value, stamp) if stamp > self.stamp else self

    def set_unless_none(self, value: T | None, stamp: Stamp) -> "LWWRegister[T]":
        """Return the register after an event that sets it, unless the event's member is missing or null."""
        return self if value is None else self.set(value, stamp)

    @property
    def columns(self) -> tuple[T, int, str]:
        """The columns that store it: value, time and event id."""
        return (self.value, *self.stamp)


def load_registers(columns: Sequence[Any]) -> Iterator[LWWRegister[Any]]:
    """Yield the registers that are stored in columns, three for each, as `LWWRegister.columns` returns them."""
    for value, time_us, event_id in zip(columns[::3], columns[1::3], columns[2::3], strict=True):
        yield LWWRegister(value, (time_us, event_id))


class LWWSet:
    """Ids, each present or removed by its latest event. Removed ids stay, so that a late event cannot revive them.

    A set is a value: `set` returns another one and leaves this one as it is. Sets that follow from one another share a
    dict of the latest of them and a list of what each change replaced, so that a change costs the same whatever the
    size. An older set that is used again is copied (docs/decisions/0023-memberships-as-canonical-json.md).
    """

    __slots__ = ("_latest", "_replaced", "_version")

    def __init__(self, registers: dict[str, _Register] | None = None) -> None:
        """Make a set from the register of each id, in a dict that it owns from now on."""
        self._latest = registers or {}
        self._replaced: list[tuple[str, _Register | None]] = []
        self._version = 0

    def set(self, member: str, present: bool, stamp: Stamp) -> "LWWSet":
        """Return the set after an event that adds or removes a member."""
        registers = self._registers()
        before = registers.get(member)
        if before is not None and stamp <= (before[1], before[2]):
            return self
        register = (present, *stamp)
        # Rows share the empty set as their default, so it must never own what follows from it.
        if registers is not self._latest or not registers:
            return LWWSet({**registers, member: register})
        self._replaced.append((member, before))
        registers[member] = register
        after = LWWSet(registers)
        after._replaced, after._version = self._replaced, self._version + 1
        return after

    @property
    def count(self) -> int:
        """How many ids are present."""
        return sum(present for present, _, _ in self._registers().values())

    def to_json(self) -> str:
        """Return `{"<id>": [present, time_us, "<event id>"]}`; equal sets give identical bytes."""
        return to_json(dict(sorted(self._registers().items()))).decode()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the set that `to_json` wrote."""
        return cls(from_json(text))

    def __eq__(self, other: object) -> bool:
        """Return whether the other set has the same ids with the same registers."""
        return isinstance(other, LWWSet) and self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # like that of a dict

    def __repr__(self) -> str:
        """Show the registers."""
        return f"LWWSet.from_json({self.to_json()!r})"

    def _registers(self) -> dict[str, _Register]:
        """Return the register of each id. If this is not the latest set, it is a copy."""
        if self._version == len(self._replaced):
            return self._latest
        registers = dict(self._latest)
        for member, register in reversed(self._replaced[self._version :]):
            if register is None:
                del registers[member]
            else:
                registers[member] = register
        return registers
