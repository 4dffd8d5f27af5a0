"""BatchReader: reads and decodes the entries after a checkpoint, and prefetches the batch after that."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from redis.exceptions import RedisError

from event_stream.errors import InvalidEventError, Reason
from event_stream.events.decoding import Arrival
from event_stream.events.event import Event, partition_of
from event_stream.events.json_body import BODY_BYTES_MAX
from event_stream.streams.entries import START, Entry, Position, StreamSlice
from event_stream.streams.stream import NotAStreamError
from projections.transaction.apply import Batch
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.dead_letters import DeadLetter
from workers.drain.batch_size import BatchSize
from workers.drain.clocks import Clocks, DatabaseClockNeededError
from workers.drain.drain_mark import DrainMark
from workers.drain.entry_decoding import decode_entry, decode_valid, fields_as_json
from workers.drain.poison import PoisonSuspect
from workers.runtime import Runtime

# Small, so that a result of the database does not wait long. Not smaller, because each check for a result costs time.
DECODED_AT_ONCE = 20


class ReadRequest(NamedTuple):
    """Where a read of the stream starts, and the position of one additional entry to read: the known end."""

    epoch: int
    position: Position
    extra_position: Position

    @classmethod
    def at(cls, checkpoint: Checkpoint) -> "ReadRequest":
        """Return the request that reads on from a checkpoint."""
        return cls(checkpoint.epoch, checkpoint.position, checkpoint.known_end.position)


@dataclass(frozen=True, slots=True)
class DecodedSlice:
    """The entries of one read, and those decoded so far: each of these is in `events` or in `dead_letters`."""

    request: ReadRequest
    stream_slice: StreamSlice
    events: list[Event] = field(default_factory=list)
    dead_letters: list[DeadLetter] = field(default_factory=list)

    def undecoded(self, count: int) -> list[Entry]:
        """Return the next entries to decode, at most `count`."""
        done = len(self.events) + len(self.dead_letters)
        return self.stream_slice.entries[done : done + count]


@dataclass
class BatchReader:
    """Reads one partition for one drain. It changes nothing, so a batch may be discarded at any time."""

    runtime: Runtime
    partition: int
    batch_size: BatchSize
    poison: PoisonSuspect
    clocks: Clocks
    mark: DrainMark
    _ahead: DecodedSlice | None = None

    def next_batch(self, expected: Checkpoint) -> Batch | None:
        """Return the batch after a checkpoint, or None if there is nothing to apply.

        If the stream was replaced since the checkpoint, the batch starts a new epoch. Raises NotAStreamError,
        DeploymentMismatchError, and the errors of Redis and of the database.
        """
        start, decoded = expected, self._prefetched(expected) or self._read(ReadRequest.at(expected))
        if decoded.stream_slice.end.wrong_type:
            raise NotAStreamError(self.partition)
        if not _continues(decoded.stream_slice, start):
            start = expected.new_epoch(decoded.stream_slice.end)
            decoded = self._read(ReadRequest.at(start))
        found = decoded.stream_slice
        if not found.entries and start.with_lost_counted(found.end) == expected:
            return None
        if start.position == START or not found.entries:
            # No entry proves that the stream is the one of this database, so compare the deployments, after the read.
            self.runtime.deployment().check()
        self._decode_all(decoded)
        parked = decoded.dead_letters
        return Batch(expected, start, found, decoded.events, parked, self._owner_partitions(parked))

    def read_ahead(self, batch: Batch, count: int) -> None:
        """Prefetch `count` entries after a batch, assuming that the batch will be applied.

        If Redis fails, nothing is prefetched; the next read raises the error. See
        docs/decisions/0021-decode-the-next-batch-while-waiting.md.
        """
        read = batch.stream_slice
        if read.reaches_end or read.end.position is None:
            return
        request = ReadRequest(batch.start.epoch, read.entries[-1].position, read.end.position)
        with suppress(RedisError):
            self._ahead = self._read(request, count)

    def decode_some(self) -> bool:
        """Decode a few of the prefetched entries; returns False if none were left.

        A large entry is left to `next_batch`, because the rest of its body may have to be read; an event that may be in
        the future as well, because the database's clock cannot be read while the database works.
        """
        ahead = self._ahead
        if ahead is None or any(entry.large for entry in ahead.stream_slice.entries[:1]):
            return False
        try:
            return self._decode_some(ahead)
        except DatabaseClockNeededError:
            return False

    def _prefetched(self, expected: Checkpoint) -> DecodedSlice | None:
        """Return the prefetched slice if it starts exactly at the checkpoint; discard it otherwise."""
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.request != ReadRequest.at(expected):
            return None
        return ahead if _continues(ahead.stream_slice, expected) else None

    def _read(self, request: ReadRequest, count: int | None = None) -> DecodedSlice:
        self.clocks.expire()
        limit = self.batch_size.count if count is None else count
        self.mark.before_read(limit)
        stream = self.runtime.stream
        return DecodedSlice(request, stream.read_after(self.partition, request.position, limit, request.extra_position))

    def _decode_all(self, decoded: DecodedSlice) -> None:
        """Decode the remaining entries. The database's clock is read at most once."""
        while True:
            try:
                while self._decode_some(decoded):
                    pass
            except DatabaseClockNeededError:
                self.clocks.read_database()
            else:
                return

    def _decode_some(self, decoded: DecodedSlice) -> bool:
        """Decode a few entries; returns False if none were left. Raises DatabaseClockNeededError."""
        entries = decoded.undecoded(DECODED_AT_ONCE)
        if not entries:
            return False
        settings, first, last = self.runtime.settings, entries[0].position, entries[-1].position
        now_ms = self.clocks.now_ms(first.ms)
        arrival = Arrival(self.partition, settings.partitions, now_ms, settings.max_clock_skew_s)
        has_poison = self.poison.is_poison_between(decoded.request.epoch, first, last)
        is_whole = entries[0].large is None  # a large entry is read alone
        if is_whole and not has_poison and (events := decode_valid(entries, arrival)):
            decoded.events.extend(events)
            return True
        for entry in entries:
            self._decode_one(decoded, entry, arrival)
        return True

    def _decode_one(self, decoded: DecodedSlice, entry: Entry, arrival: Arrival) -> None:
        body = entry.body
        if entry.body_length > BODY_BYTES_MAX:
            decoded.dead_letters.append(self._too_large(entry))
            return
        try:
            event = decode_entry(entry, body, arrival, self.clocks)
            if self.poison.is_poison(decoded.request.epoch, entry.position):
                raise InvalidEventError(Reason.FOLD_FAILED, f"{self.poison.error}, on this event alone, twice")
            decoded.events.append(event)
        except InvalidEventError as error:
            stored = fields_as_json(entry) if body is None else body
            decoded.dead_letters.append(DeadLetter(self.partition, entry.position, stored, error.reason, error.detail))

    def _too_large(self, entry: Entry) -> DeadLetter:
        """Return the dead letter of an entry whose body is too large, which needs the hash of all its bytes."""
        body = entry.body or b""
        chunks = [body] if entry.large is None else self.runtime.stream.iter_body(self.partition, entry)
        return DeadLetter.too_large(self.partition, entry.position, body, chunks)

    def _owner_partitions(self, parked: list[DeadLetter]) -> frozenset[int]:
        """Return the other partitions that the events in these dead letters belong to."""
        partitions = self.runtime.settings.partitions
        owners = {partition_of(dead_letter.identity[0], partitions) for dead_letter in parked if dead_letter.identity}
        return frozenset(owners - {self.partition})


def _continues(found: StreamSlice, checkpoint: Checkpoint) -> bool:
    """Return whether entries read after a checkpoint belong to the same stream as the checkpoint."""
    return found.end.position is None or checkpoint.matches(found) or checkpoint.holds_known_end(found)
