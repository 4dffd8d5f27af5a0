"""What comes in: the entries behind a checkpoint, read and judged; the next ones while the database has these."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from json import dumps
from threading import Thread
from typing import NamedTuple

from event_stream.envelope import InvalidEventError, Reason
from event_stream.stream import START, Entry, Position, Reading
from event_stream.types import Arrival, decode, partition_of
from projections.apply import Batch
from projections.checkpoint import Checkpoint
from projections.dead_letters import Letter
from projections.event_log import Received
from workers.pace import Pace
from workers.runtime import Runtime


class Judged(NamedTuple):
    """A reading from a position on, inclusive; what lies behind that position, and what was found of it."""

    whole: Reading
    behind: Reading
    received: list[Received]
    letters: list[Letter]


class Place(NamedTuple):
    """All that a reading depends on: where it starts, and which entry it asks for besides."""

    epoch: int
    position: Position
    other: Position


@dataclass
class Intake:
    """The reading side of one drain of one partition. It changes nothing, so what it reads may be thrown away."""

    runtime: Runtime
    partition: int
    pace: Pace
    _ahead: "_Ahead | None" = None

    def take(self, expected: Checkpoint) -> Batch | None:
        """Return what to apply behind a checkpoint, or None where there is nothing to do; raises what Redis raises."""
        start, judged = expected, self._looked_up(expected) or self._look(_place_of(expected), self.pace.count)
        if not _continues(judged.whole, start):
            start = expected.new_epoch(judged.whole.end)
            judged = self._look(_place_of(start), self.pace.count)
        if not judged.behind.entries and start.settled(judged.behind.end) == expected:
            return None
        return Batch(expected, start, judged.behind, judged.received, judged.letters, self._homes(judged.letters))

    def look_ahead(self, batch: Batch, count: int) -> None:
        """Begin to read `count` entries behind a batch, in a thread: what is taken next, if that batch is applied."""
        reading = batch.reading
        if reading.reaches_end or reading.end.position is None:
            return
        place = Place(batch.start.epoch, reading.entries[-1].position, reading.end.position)
        self._ahead = _Ahead(place, partial(self._look, place, count))

    def _looked_up(self, expected: Checkpoint) -> Judged | None:
        ahead, self._ahead = self._ahead, None
        if ahead is None or ahead.place != _place_of(expected):
            return None
        judged = ahead.result()
        return judged if _continues(judged.whole, expected) else None

    def _look(self, place: Place, count: int) -> Judged:
        # One more than the batch, as the first is the checkpoint's own entry.
        inclusive = count + (place.position != START)
        whole = self.runtime.stream.read_from(self.partition, place.position, inclusive, place.other)
        behind = whole.after(place.position, count)
        return Judged(whole, behind, *self._judge(place.epoch, behind.entries))

    def _judge(self, epoch: int, entries: list[Entry]) -> tuple[list[Received], list[Letter]]:
        received: list[Received] = []
        letters: list[Letter] = []
        settings, pace = self.runtime.settings, self.pace
        for entry in entries:
            body = entry.body
            try:
                if body is None:
                    raise InvalidEventError(Reason.NOT_AN_EVENT, "the entry has no field `event`")
                arrival = Arrival(self.partition, settings.partitions, entry.position.ms, settings.max_clock_skew_s)
                event = decode(body, arrival)
                if pace.suspect is not None and pace.gives_up_on(epoch, entry.position):
                    raise InvalidEventError(Reason.FOLD_FAILED, f"{pace.why}, on this event alone, twice")
                received.append(Received(entry.position, event))
            except InvalidEventError as error:
                shown = _shown(entry) if body is None else body
                letters.append(Letter.from_error(self.partition, entry.position, shown, error))
        return received, letters

    def _homes(self, letters: list[Letter]) -> frozenset[int]:
        """Return the other partitions that the letters' events belong to."""
        partitions = self.runtime.settings.partitions
        homes = {partition_of(letter.identity[0], partitions) for letter in letters if letter.identity}
        return frozenset(homes - {self.partition})


class _Ahead:
    """A look that a thread takes; the thread dies with the process, as nothing depends on it."""

    def __init__(self, place: Place, look: Callable[[], Judged]) -> None:
        self.place = place
        self._found: Future[Judged] = Future()
        Thread(target=self._run, args=(look,), name="look-ahead", daemon=True).start()

    def result(self) -> Judged:
        """Return what was found, as soon as it is; raises what the look raised."""
        return self._found.result()

    def _run(self, look: Callable[[], Judged]) -> None:
        try:
            self._found.set_result(look())
        except BaseException as error:
            self._found.set_exception(error)


def _place_of(at: Checkpoint) -> Place:
    return Place(at.epoch, at.position, at.seen.position)


def _continues(whole: Reading, at: Checkpoint) -> bool:
    """Return whether what was read from a checkpoint on is the stream that the checkpoint knows."""
    return whole.end.position is None or at.is_at(whole.entries) or at.has_seen(whole.other)


def _shown(entry: Entry) -> bytes:
    """Return an entry without the field `event` as JSON, so that a person can see what it was."""
    fields = {_text(name): _text(value) for name, value in entry.fields.items()}
    return dumps(fields, sort_keys=True).encode()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
