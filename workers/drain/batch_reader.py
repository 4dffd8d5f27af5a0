"""What comes in: the entries behind a checkpoint, read and judged; the next judged while the database has these."""

from contextlib import suppress
from dataclasses import dataclass, field
from json import dumps
from typing import NamedTuple

from redis.exceptions import RedisError

from event_stream.decoding import Arrival, decode, decode_batch
from event_stream.entries import START, Entry, Position, StreamSlice
from event_stream.envelope import InvalidEventError, Reason
from event_stream.event_types import Event, partition_of
from event_stream.stream import NotAStreamError
from projections.transaction.apply import Batch
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.dead_letters import DeadLetter
from workers.drain.batch_size import BatchSize
from workers.runtime import Runtime

# Short, as a database that has answered waits for them; long enough not to ask it after each.
JUDGED_AT_ONCE = 20


class ReadRequest(NamedTuple):
    """All that a reading depends on: where it starts, and which entry it asks for besides."""

    epoch: int
    position: Position
    other: Position


@dataclass(frozen=True, slots=True)
class DecodedSlice:
    """A reading from a place on, inclusive; what lies behind that place, and what was found of it so far."""

    place: ReadRequest
    whole: StreamSlice
    behind: StreamSlice
    events: list[Event] = field(default_factory=list)
    letters: list[DeadLetter] = field(default_factory=list)

    def unjudged(self, count: int) -> list[Entry]:
        """Return the next entries to be judged, at most `count`; those that were are events, or letters."""
        done = len(self.events) + len(self.letters)
        return self.behind.entries[done : done + count]


@dataclass
class BatchReader:
    """The reading side of one drain of one partition. It changes nothing, so what it reads may be thrown away."""

    runtime: Runtime
    partition: int
    pace: BatchSize
    _ahead: DecodedSlice | None = None

    def take(self, expected: Checkpoint) -> Batch | None:
        """Return what to apply behind a checkpoint, or None where there is nothing to do.

        Raises what Redis raises, or NotAStreamError.
        """
        start, look = expected, self._looked_ahead(expected) or self._look(_place_of(expected), self.pace.count)
        if look.whole.end.wrong_type:
            raise NotAStreamError(self.partition)
        if not _continues(look.whole, start):
            start = expected.new_epoch(look.whole.end)
            look = self._look(_place_of(start), self.pace.count)
        if not look.behind.entries and start.settled(look.behind.end) == expected:
            return None
        while self._judge(look):
            pass
        return Batch(expected, start, look.behind, look.events, look.letters, self._homes(look.letters))

    def look_ahead(self, batch: Batch, count: int) -> None:
        """Read `count` entries behind a batch, to be taken next if that batch is applied, and judged by then or before.

        Without Redis nothing is read, once its client has run out of patience: who takes next will meet it too.
        """
        reading = batch.reading
        if reading.reaches_end or reading.end.position is None:
            return
        place = ReadRequest(batch.start.epoch, reading.entries[-1].position, reading.end.position)
        with suppress(RedisError):
            self._ahead = self._look(place, count)

    def decode_some(self) -> bool:
        """Judge some of what was read ahead; returns whether there was anything to do."""
        return self._ahead is not None and self._judge(self._ahead)

    def _looked_ahead(self, expected: Checkpoint) -> DecodedSlice | None:
        ahead, self._ahead = self._ahead, None
        fits = ahead is not None and ahead.place == _place_of(expected) and _continues(ahead.whole, expected)
        return ahead if fits else None

    def _look(self, place: ReadRequest, count: int) -> DecodedSlice:
        # One more than the batch, as the first is the checkpoint's own entry.
        inclusive = count + (place.position != START)
        whole = self.runtime.stream.read_from(self.partition, place.position, inclusive, place.other)
        return DecodedSlice(place, whole, whole.after(place.position, count))

    def _judge(self, look: DecodedSlice) -> bool:
        """Judge some entries; returns whether there were any."""
        entries = look.unjudged(JUDGED_AT_ONCE)
        if not entries:
            return False
        settings, first, last = self.runtime.settings, entries[0].position, entries[-1].position
        at_first = Arrival(self.partition, settings.partitions, first.ms, settings.max_clock_skew_s)
        is_given_up = self.pace.gives_up_between(look.place.epoch, first, last)
        if not is_given_up and (events := _valid_together(entries, at_first)):
            look.events.extend(events)
            return True
        for entry in entries:
            self._judge_alone(look, entry, at_first)
        return True

    def _judge_alone(self, look: DecodedSlice, entry: Entry, at_first: Arrival) -> None:
        body = entry.body
        try:
            event = _valid(entry, body, at_first)
            if self.pace.gives_up_on(look.place.epoch, entry.position):
                raise InvalidEventError(Reason.FOLD_FAILED, f"{self.pace.why}, on this event alone, twice")
            look.events.append(event)
        except InvalidEventError as error:
            shown = _shown(entry) if body is None else body
            look.letters.append(DeadLetter.from_error(self.partition, entry.position, shown, error))

    def _homes(self, letters: list[DeadLetter]) -> frozenset[int]:
        """Return the other partitions that the letters' events belong to."""
        partitions = self.runtime.settings.partitions
        homes = {partition_of(letter.identity[0], partitions) for letter in letters if letter.identity}
        return frozenset(homes - {self.partition})


def _place_of(at: Checkpoint) -> ReadRequest:
    return ReadRequest(at.epoch, at.position, at.seen.position)


def _continues(whole: StreamSlice, at: Checkpoint) -> bool:
    """Return whether what was read from a checkpoint on is the stream that the checkpoint knows."""
    return whole.end.position is None or at.is_at(whole.entries) or at.has_seen(whole.other)


def _valid_together(entries: list[Entry], at_first: Arrival) -> list[Event] | None:
    """Return the events of entries if nothing is wrong with any, as it is nearly always; else each has to be judged."""
    bodies = [body for entry in entries if (body := entry.body) is not None]
    return decode_batch(bodies, at_first) if len(bodies) == len(entries) else None


def _valid(entry: Entry, body: bytes | None, at_first: Arrival) -> Event:
    """Return the event of an entry that arrived with the entry `at_first` or later; raises InvalidEventError."""
    if body is None:
        raise InvalidEventError(Reason.NOT_AN_EVENT, "the entry has no field `event`")
    try:
        return decode(body, at_first)
    except InvalidEventError as error:
        if error.reason is not Reason.TIME_IN_FUTURE:
            raise
    # Ids only grow, so nearly every event is seen to be in time without a look at its own.
    return decode(body, at_first._replace(at_ms=entry.position.ms))


def _shown(entry: Entry) -> bytes:
    """Return an entry without the field `event` as JSON, so that a person can see what it was."""
    fields = {_text(name): _text(value) for name, value in entry.fields.items()}
    return dumps(fields, sort_keys=True).encode()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
