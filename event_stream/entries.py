"""What lies in a stream, as values: positions, entries, its end, and a run of entries that was read."""

from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, Self

EVENT_FIELD = b"event"


class Position(NamedTuple):
    """A place in a stream: an entry id as two integers, because as text "9-0" sorts after "10-0"."""

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Return the position that `<ms>-<seq>` names; raises ValueError for anything else."""
        ms, _, seq = text.partition(b"-") if isinstance(text, bytes) else text.partition("-")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


START = Position(0, 0)


class Entry(NamedTuple):
    """One entry of a stream as it lies there, before anybody has judged it; `parts` are its fields' names and values.

    A batch has thousands, and hardly ever needs more of one than its body; so all else is made when it is asked for.
    """

    entry_id: bytes
    parts: list[bytes]

    @property
    def position(self) -> Position:
        """Where it lies."""
        return Position.parse(self.entry_id)

    @property
    def fields(self) -> dict[bytes, bytes]:
        """Its fields by name; of a name that is repeated, the last."""
        return dict(zip(self.parts[::2], self.parts[1::2], strict=True))

    @property
    def body(self) -> bytes | None:
        """The value of the field `event`; None where an entry has no such field."""
        parts = self.parts
        return parts[1] if len(parts) == 2 and parts[0] == EVENT_FIELD else self.fields.get(EVENT_FIELD)

    def digest(self) -> bytes:
        """Return 32 bytes that tell this entry from any other that ever gets the same position."""
        hashed = sha256()
        for part in (item for pair in self.fields.items() for item in pair):
            hashed.update(len(part).to_bytes(8, "big"))
            hashed.update(part)
        return hashed.digest()


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The state of a stream at one moment: its last existing entry, its length, all entries ever added.

    One that does not exist is empty; so is one that has something of a `wrong_type` in its place.
    """

    last: Entry | None
    length: int
    added: int
    wrong_type: bool = False

    @property
    def position(self) -> Position | None:
        """Where the last existing entry is; None where there is none."""
        return self.last.position if self.last else None


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """A run of entries in order, behind `before`, and the stream's end at the very moment they were read.

    `other` is the one entry that was asked for besides, if the stream still holds it.
    """

    entries: list[Entry]
    end: StreamEnd
    other: Entry | None = None
    before: Position = START

    @property
    def reaches_end(self) -> bool:
        """Whether nothing lies behind the last entry read."""
        last = self.entries[-1].position if self.entries else self.before
        return self.end.position is None or last == self.end.position

    @property
    def size(self) -> int:
        """How many bytes the fields of its entries hold."""
        return sum(map(len, chain.from_iterable(map(attrgetter("parts"), self.entries))))

    def after(self, position: Position, count: int) -> "StreamSlice":
        """Return the first `count` entries behind `position`, of a reading that began there."""
        skipped = bool(self.entries) and self.entries[0].position <= position
        return StreamSlice(self.entries[skipped : skipped + count], self.end, self.other, before=position)
