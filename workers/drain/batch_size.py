"""How many entries of a partition to read next, and which of them is suspected when a batch fails."""

import random
import time
from dataclasses import dataclass

from event_stream.entries import Position, StreamSlice
from projections.error_classes import describe
from projections.folding.projection import FoldError
from projections.transaction.apply import Batch

# One, so that a worker that was killed for its memory, and knows nothing of it, does not try the same again for ever.
ENTRIES_FIRST = 1
# A row is loaded, folded and stored once a batch, however many of its events are in it: large batches cost less.
ENTRIES_MAX = 8_000
# Times the square of what went well: one entry says little of what the next are like, so they are but few.
FASTER = 64
BYTES_MAX = 8 * 1024 * 1024
FAILURES_ALONE_MAX = 2
NARROWING_STEPS_MAX = 16  # from ENTRIES_MAX down to one, and that one alone, and some to spare
MEMORY_SHORT_S = 60.0
BACK_OFF_FIRST_S = 0.4
BACK_OFF_MAX_S = 15.0


@dataclass
class BatchSize:
    """The pace of one partition in one process; it outlives the single drain, and losing it costs only time."""

    count: int = ENTRIES_FIRST
    suspect: tuple[int, Position] | None = None
    failures: int = 0
    why: str = ""
    failed_in_a_row: int = 0
    waits_in_a_row: int = 0
    # As many as there was memory for, and until when that is believed.
    fitting: int = ENTRIES_MAX
    fitting_until_s: float = 0.0

    @property
    def allows_look_ahead(self) -> bool:
        """Whether to hold two batches at once: not after a failure, nor as long as one entry is all that we dare."""
        return self.count > ENTRIES_FIRST and not self.failed_in_a_row

    def count_after(self, done: StreamSlice) -> int:
        """Return how many to read once a batch is done: more, but not so many that they break the byte budget."""
        entries = max(1, len(done.entries))
        in_budget = max(1, BYTES_MAX * entries // max(1, done.size))
        most = self.fitting if time.monotonic() < self.fitting_until_s else ENTRIES_MAX
        return min(self.count**2 * FASTER, in_budget, most)

    def speed_up(self, count: int) -> None:
        """A batch is done: read so many next time."""
        self.failed_in_a_row = self.waits_in_a_row = 0
        self.count = count

    def slow_down(self) -> None:
        """A batch failed, and nothing in it is to blame: read half as much next time."""
        self.failed_in_a_row += 1
        self.count = max(1, self.count // 2)

    def take_on_less(self) -> bool:
        """Read half as much, and no more for a while: there was no memory for a batch. Returns whether that is less.

        Waiting would give nothing back, and to grow at once what has just failed would fail again after each success.
        """
        is_less = self.count > 1
        self.slow_down()
        self.fitting = self.count
        self.fitting_until_s = time.monotonic() + MEMORY_SHORT_S
        return is_less

    def blame(self, batch: Batch, error: BaseException) -> None:
        """Note that a batch failed through what is in it: narrow down, until an entry fails alone."""
        self.failed_in_a_row += 1
        positions = [entry.position for entry in batch.reading.entries]
        if len(positions) == 1:
            place = (batch.start.epoch, positions[0])
            self.failures = self.failures + 1 if self.suspect == place else 1
            self.suspect = place
            self.why = describe(error)
        elif isinstance(error, FoldError):
            # A fold says which event it failed on: what stands before that one can go ahead. By now the event may be of
            # a later version than it was received in; and of an identity only the first is folded.
            culprit = [event.identity for event in batch.events].index(error.event.identity)
            self.count = max(1, positions.index(batch.positions[culprit]))
        else:
            self.count = max(1, len(positions) // 2)

    def back_off_s(self) -> float:
        """Begin a wait after a failure; returns its length: longer each time in a row, never alike for all who wait."""
        longest_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** min(self.waits_in_a_row, 10))
        self.waits_in_a_row += 1
        return random.uniform(0.5, 1.0) * longest_s  # noqa: S311 (spreads retries, no secret)

    def forgive(self) -> None:
        """Forget who is suspected: it was us."""
        self.suspect = None

    def gives_up_on(self, epoch: int, position: Position) -> bool:
        """Return whether the entry at this place has failed alone so often that it is the culprit."""
        return self.gives_up_between(epoch, position, position)

    def gives_up_between(self, epoch: int, first: Position, last: Position) -> bool:
        """Return whether the culprit is one of the entries from `first` to `last`."""
        if self.suspect is None or self.failures < FAILURES_ALONE_MAX:
            return False
        return self.suspect[0] == epoch and first <= self.suspect[1] <= last
