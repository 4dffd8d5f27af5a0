"""Trims streams: removes entries whose projection was committed long enough ago."""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from event_stream.entries import START, Position
from projections.transaction.checkpoint import Checkpoint
from workers.runtime import Runtime

TRIM_BEHIND_S = 60.0
TRIM_EVERY_S = 5.0


@dataclass
class Trimmer:
    """Removes entries whose projection was committed at least TRIM_BEHIND_S ago.

    So a database that loses its last commits finds the entries again. A checkpoint's own entry, which the next read
    begins with, always stays.
    """

    runtime: Runtime
    clock: Callable[[], float] = time.monotonic
    seen: deque[tuple[float, list[Checkpoint]]] = field(default_factory=deque)

    def note(self, checkpoints: list[Checkpoint]) -> None:
        """Remember where the checkpoints are, and trim to where they were TRIM_BEHIND_S ago."""
        now = self.clock()
        if self.seen and now - self.seen[-1][0] < TRIM_EVERY_S:
            return
        self.seen.append((now, checkpoints))
        old = None
        while now - self.seen[0][0] >= TRIM_BEHIND_S:
            old = self.seen.popleft()[1]
        for then, current in zip(old or [], checkpoints, strict=bool(old)):
            if then.epoch == current.epoch:
                # A database that was set back needs what it had projected before.
                self._trim(current, before=min(then.position, current.position))

    def _trim(self, at: Checkpoint, before: Position) -> None:
        """Trim the stream of a checkpoint, if it still is the one that the checkpoint knows."""
        stream = self.runtime.stream
        entries = stream.read_from(at.partition, at.position, 1).entries
        if before > START and at.is_at(entries):
            stream.trim(at.partition, before, beside=entries[0])
