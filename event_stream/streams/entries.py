"""Values read from a stream: positions, entries, the stream's end, and a slice of entries."""

from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, Self

EVENT_FIELD = b"event"


class Position(NamedTuple):
    """An entry id as two integers, which sort correctly: as text, "9-0" sorts after "10-0"."""

    ms: int
    seq: int

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """Return the position `<ms>-<seq>`; raises ValueError for anything else."""
        ms, _, seq = text.partition(b"-") if isinstance(text, bytes) else text.partition("-")
        return cls(int(ms), int(seq))

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"


START = Position(0, 0)


class Entry(NamedTuple):
    """An entry as it is in the stream, not validated. `parts` are the names and values of its fields.

    A batch has thousands of entries and usually needs only their bodies, so properties are computed on access.
    """

    entry_id: bytes
    parts: list[bytes]

    @property
    def position(self) -> Position:
        """The entry's id."""
        return Position.parse(self.entry_id)

    @property
    def fields(self) -> dict[bytes, bytes]:
        """The fields by name. If a name is repeated, the last value counts."""
        return dict(zip(self.parts[::2], self.parts[1::2], strict=True))

    @property
    def body(self) -> bytes | None:
        """The value of the field `event`; None if the entry has no such field."""
        parts = self.parts
        return parts[1] if len(parts) == 2 and parts[0] == EVENT_FIELD else self.fields.get(EVENT_FIELD)

    def digest(self) -> bytes:
        """Return a hash of all parts, which differs from that of any other entry with the same position."""
        hashed = sha256()
        for part in self.parts:
            hashed.update(len(part).to_bytes(8, "big"))
            hashed.update(part)
        return hashed.digest()


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """A stream at one moment: its last existing entry, its length, and the number of entries ever added.

    A stream that does not exist counts as empty. A key of another type also does, and sets `wrong_type`.
    """

    last: Entry | None
    length: int
    added: int
    wrong_type: bool = False

    @property
    def position(self) -> Position | None:
        """The position of the last existing entry; None if there is none."""
        return self.last.position if self.last else None


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """Consecutive entries of a stream that follow the position `before`, and the stream's end, as one snapshot.

    `extra_entry` is the entry at the additional position that was requested, if the stream still holds it.
    """

    entries: list[Entry]
    end: StreamEnd
    extra_entry: Entry | None = None
    before: Position = START

    @property
    def reaches_end(self) -> bool:
        """Whether the stream holds no entry after this slice."""
        last = self.entries[-1].position if self.entries else self.before
        return self.end.position is None or last == self.end.position

    @property
    def size(self) -> int:
        """The total size of the entries' fields in bytes."""
        return sum(map(len, chain.from_iterable(map(attrgetter("parts"), self.entries))))

    def after(self, position: Position, count: int) -> "StreamSlice":
        """Return the first `count` entries after `position`, for a slice that was read from `position` on."""
        skipped = bool(self.entries) and self.entries[0].position <= position
        return StreamSlice(self.entries[skipped : skipped + count], self.end, self.extra_entry, before=position)
