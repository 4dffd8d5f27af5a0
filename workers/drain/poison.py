"""PoisonSuspect: the entry that may make its batch fail, and the size of the next batch that isolates it.

Why an entry is parked only after it failed alone twice: docs/decisions/0016-park-an-event-only-after-it-fails-alone.md
"""

from dataclasses import dataclass

from event_stream.streams.entries import Position
from projections.error_classes import describe
from projections.folding.projection import FoldError
from projections.transaction.apply import Batch

FAILURES_ALONE_MAX = 2


@dataclass
class PoisonSuspect:
    """The entry of one partition that failed alone in this process, and how often.

    It is kept across drains of the process. Losing it costs only time.
    """

    location: tuple[int, Position] | None = None  # epoch and position
    failures: int = 0
    error: str = ""

    def suspect(self, epoch: int, position: Position, error: BaseException) -> None:
        """Record that the entry at this position failed alone."""
        location = (epoch, position)
        self.failures = self.failures + 1 if self.location == location else 1
        self.location = location
        self.error = describe(error)

    def clear(self) -> None:
        """Suspect no entry any more, because this release is at fault and not the entry."""
        self.location = None

    def is_poison(self, epoch: int, position: Position) -> bool:
        """Return whether the entry at this position failed alone FAILURES_ALONE_MAX times."""
        return self.is_poison_between(epoch, position, position)

    def is_poison_between(self, epoch: int, first: Position, last: Position) -> bool:
        """Return whether one of the entries from `first` to `last` failed alone FAILURES_ALONE_MAX times."""
        if self.location is None or self.failures < FAILURES_ALONE_MAX:
            return False
        return self.location[0] == epoch and first <= self.location[1] <= last


def isolating_count(batch: Batch, error: BaseException) -> int:
    """Return how many entries to read next, to isolate the one that made a batch of several entries fail."""
    positions = [entry.position for entry in batch.stream_slice.entries]
    if not isinstance(error, FoldError):
        return len(positions) // 2
    # FoldError names the event, and the entries before it can be applied. Search for it by identity, because the fold
    # got an upcast copy; only the first event of an identity is folded.
    index = [event.identity for event in batch.events].index(error.event.identity)
    return positions.index(batch.event_positions[index])
