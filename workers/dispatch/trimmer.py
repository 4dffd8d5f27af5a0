"""Trimmer: removes entries from the streams once their effects were committed long enough ago.

Why not at once: docs/decisions/0008-trim-after-a-time-window.md
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from event_stream.streams.entries import START, Position
from projections.transaction.checkpoint import Checkpoint
from workers.runtime import Runtime

TRIM_AFTER_S = 60.0
TRIM_EVERY_S = 5.0

log = structlog.get_logger()


@dataclass
class Trimmer:
    """Trims each stream to where its checkpoint was TRIM_AFTER_S ago.

    If the database loses its newest commits, the stream still holds their entries. The checkpoint's own entry always
    stays, because the next read starts with it.
    """

    runtime: Runtime
    clock: Callable[[], float] = time.monotonic
    history: deque[tuple[float, list[Checkpoint]]] = field(default_factory=deque)
    last_trims: dict[int, tuple[tuple[int, Position, Position], float]] = field(default_factory=dict)

    def update(self, checkpoints: list[Checkpoint]) -> None:
        """Remember the current checkpoints, and trim to those of TRIM_AFTER_S ago; at most every TRIM_EVERY_S.

        Nothing is trimmed for a copy of the database, because the original may not have read these entries yet. Raises
        DeploymentMismatchError and the errors of Redis and of the database.
        """
        now_s = self.clock()
        if self.history and now_s - self.history[-1][0] < TRIM_EVERY_S:
            return
        # Every few seconds, and not only at new connections: a live server may be made the replica of another one.
        is_copy = self.runtime.link().is_copy
        self.history.append((now_s, checkpoints))
        old: list[Checkpoint] = []
        while now_s - self.history[0][0] >= TRIM_AFTER_S:
            old = self.history.popleft()[1]
        if is_copy:
            log.warning("trimmer.database_is_copy", remedy="see `projector deployment show`")
            return
        for earlier, current in zip(old, checkpoints, strict=bool(old)):
            if earlier.epoch == current.epoch:
                # A database that was restored is at an earlier position, and needs the entries after that.
                self._trim(current, before=min(earlier.position, current.position))

    def _trim(self, checkpoint: Checkpoint, before: Position) -> None:
        """Trim the stream of a checkpoint, unless another stream has replaced it.

        The same trim is repeated only after TRIM_AFTER_S, because the checkpoint's own entry may be large.
        """
        partition, position = checkpoint.partition, checkpoint.position
        trim, now_s = (checkpoint.epoch, before, position), self.clock()
        last, last_s = self.last_trims.get(partition, (None, 0.0))
        if before > START and (trim != last or now_s - last_s >= TRIM_AFTER_S):
            self.runtime.stream.trim(partition, before, position, checkpoint.position_digest)
            self.last_trims[partition] = trim, now_s
