"""Values read from a stream: positions, entries, the stream's end, and a slice of entries."""

from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import NamedTuple, Self

from event_stream.streams.entry_digest import digest

EVENT_FIELD = b"event"
BODY_BYTES_KEPT = 65_536
"""How much of the field `event` of a large entry is read."""


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
LARGEST = Position(2**64 - 1, 2**64 - 1)
"""The largest id. A stream that has given it accepts no more entries."""


class LargeEntry(NamedTuple):
    """What is known of an entry that is too large to be read whole.

    `body_index` is the number of its value `event` among its names and values. Without it, `body_length` is 0.
    """

    digest: bytes
    size: int
    body_length: int
    body_index: int


class Entry(NamedTuple):
    """An entry as it is in the stream, not validated. `parts` are the names and values of its fields.

    The `parts` of a large entry are the field `event` only, up to BODY_BYTES_KEPT. A batch has thousands of entries and
    usually needs only their bodies, so properties are computed on access.
    """

    entry_id: bytes
    parts: list[bytes]
    large: LargeEntry | None = None

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
        """The value of the field `event`, or its beginning; None if the entry has no such field."""
        parts = self.parts
        return parts[1] if len(parts) == 2 and parts[0] == EVENT_FIELD else self.fields.get(EVENT_FIELD)

    @property
    def body_length(self) -> int:
        """The length of the whole body, of which a large entry may hold the beginning only."""
        return len(self.body or b"") if self.large is None else self.large.body_length

    def digest(self) -> bytes:
        """Return a digest that differs from that of any other entry with the same position."""
        return digest(self.parts) if self.large is None else self.large.digest


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """A stream at one moment: the position of its last existing entry, its length, and the entries ever added.

    `last_id` is the last id that it gave, also if that entry was deleted: later entries get larger ids. A stream that
    does not exist counts as empty, without a position. A key of another type also does, and sets `wrong_type`.
    """

    position: Position | None
    length: int
    added: int
    last_id: Position = START
    wrong_type: bool = False


@dataclass(frozen=True, slots=True)
class StreamSlice:
    """Consecutive entries of a stream that follow the position `before`, and the stream's end, as one snapshot.

    The digests are those of the entries at `before`, at the additional position that was requested, and at the end. A
    digest is empty if the stream does not hold that entry.
    """

    entries: list[Entry]
    end: StreamEnd
    before: Position = START
    before_digest: bytes = b""
    extra_digest: bytes = b""
    end_digest: bytes = b""

    @property
    def reaches_end(self) -> bool:
        """Whether the stream holds no entry after this slice."""
        last = self.entries[-1].position if self.entries else self.before
        return self.end.position is None or last == self.end.position

    @property
    def size(self) -> int:
        """The total size of the entries' fields in bytes, as far as they were read."""
        return sum(map(len, chain.from_iterable(map(attrgetter("parts"), self.entries))))
