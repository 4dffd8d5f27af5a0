"""Checkpoint: how far one partition's stream has been processed. A value and its arithmetic, without a database."""

from bisect import bisect_right
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Self

from event_stream.streams.entries import START, Entry, Position, StreamEnd, StreamSlice


@dataclass(frozen=True, slots=True)
class KnownEnd:
    """The stream's last entry when it was last read, and the number of entries added up to it in all epochs."""

    position: Position = START
    digest: bytes = b""
    added: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The last entry that was processed, and counters since the deployment began.

    `read` is `applied` + `duplicates` + `dead_lettered`; `lost` entries disappeared before they were read. An epoch is
    one life of the stream. `added_offset` plus the stream's own `entries-added` is the number of entries ever added.

    `position_digest` recognises the entry at `position`, and is empty at the start:
    docs/decisions/0006-start-at-the-checkpoints-own-entry.md. `known_end` reveals losses that the stream's own counter
    does not show: docs/decisions/0007-count-what-redis-lost.md.
    """

    partition: int
    epoch: int = 0
    position: Position = START
    position_digest: bytes = b""
    added_offset: int = 0
    read: int = 0
    applied: int = 0
    duplicates: int = 0
    dead_lettered: int = 0
    lost: int = 0
    known_end: KnownEnd = KnownEnd()

    def matches(self, found: StreamSlice) -> bool:
        """Return whether the stream still holds the checkpoint's own entry, for a slice that was read after it."""
        return self.position == START or found.before_digest == self.position_digest

    def holds_known_end(self, found: StreamSlice) -> bool:
        """Return whether the stream still holds the known end, not read yet, which proves that it was not replaced."""
        return self.known_end.position > self.position and found.extra_digest == self.known_end.digest

    def entries_added(self) -> int:
        """Return the stream's own counter `entries-added` at the checkpoint's position."""
        return self.read + self.lost - self.added_offset

    def after_batch(self, batch: StreamSlice, *, applied: int, duplicates: int, dead_lettered: int) -> Self:
        """Return the checkpoint after a batch. The counts say what happened to its entries."""
        entries, checkpoint = batch.entries, self
        passes_known_end = batch.reaches_end or entries[-1].position >= checkpoint.known_end.position
        if passes_known_end:
            checkpoint = checkpoint.with_lost_before(entries)
        if passes_known_end or checkpoint.holds_known_end(batch):
            checkpoint = checkpoint.with_known_end(batch)
        if entries:
            checkpoint = checkpoint.moved_to(entries[-1], applied, duplicates, dead_lettered)
        return checkpoint.with_lost_counted(batch.end) if batch.reaches_end else checkpoint

    def new_epoch(self, end: StreamEnd) -> Self:
        """Return the checkpoint at the start of a stream that has replaced the known one.

        `lost` grows by the number of unread entries up to the known end, or of unread entries removed from the front of
        the stream, whichever is greater. The remaining entries are read again; those applied before become duplicates.
        """
        removed_unread = end.added - end.length - self.entries_added()
        lost = self.lost + max(0, removed_unread, self._known_unread())
        return replace(
            self,
            epoch=self.epoch + 1,
            position=START,
            position_digest=b"",
            added_offset=self.read + lost + end.length - end.added,
            lost=lost,
            known_end=KnownEnd(),
        )

    def with_lost_counted(self, end: StreamEnd) -> Self:
        """Return the checkpoint with all unread entries counted as lost, if it is at the end of the stream.

        It is unchanged while entries wait, and while the key holds another type. A stream that does not exist has no
        counter to compare with; it may have been renamed.
        """
        if end.position not in (None, self.position) or end.wrong_type:
            return self
        added = self.added_offset + end.added if end.added else 0
        lost = self.lost + max(0, added - self.read - self.lost, self._known_unread())
        # A lower counter means another stream, or an older state of this one.
        added_offset = self.read + lost - end.added if end.added else self.added_offset
        return replace(self, lost=lost, added_offset=added_offset)

    def with_lost_before(self, entries: list[Entry]) -> Self:
        """Return the checkpoint with the losses up to the known end counted, for `entries` that reach or pass it."""
        read = self.read + bisect_right(entries, self.known_end.position, key=attrgetter("position"))
        return replace(self, lost=self.lost + max(0, self.known_end.added - read - self.lost))

    def with_known_end(self, found: StreamSlice) -> Self:
        """Return the checkpoint with the end of a slice's stream as its known end; unchanged if the stream is empty."""
        end = found.end
        if end.position is None:
            return self
        return replace(self, known_end=KnownEnd(end.position, found.end_digest, self.added_offset + end.added))

    def moved_to(self, last: Entry, applied: int, duplicates: int, dead_lettered: int) -> Self:
        """Return the checkpoint at the last entry of a batch."""
        return replace(
            self,
            position=last.position,
            position_digest=last.digest(),
            read=self.read + applied + duplicates + dead_lettered,
            applied=self.applied + applied,
            duplicates=self.duplicates + duplicates,
            dead_lettered=self.dead_lettered + dead_lettered,
        )

    def _known_unread(self) -> int:
        return self.known_end.added - self.read - self.lost
