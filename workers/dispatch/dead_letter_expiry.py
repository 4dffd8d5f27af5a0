"""DeadLetterExpiry: deletes dead letters that have been closed for PROJECTOR_DEAD_LETTER_DAYS."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from projections.lifecycle import dead_letter_admin
from projections.transaction import dead_letter_counts
from workers.runtime import Runtime

DELETED_AT_ONCE = 1_000
CHECK_EVERY_S = 60.0
_DAY_US = 86_400_000_000


@dataclass
class DeadLetterExpiry:
    """Deletes one page per sweep while there is more, and else looks once in CHECK_EVERY_S.

    It has no state that matters: after a kill, the next dispatcher continues with the oldest that are left.
    """

    runtime: Runtime
    clock: Callable[[], float] = time.monotonic
    next_s: float = float("-inf")

    def step(self) -> None:
        """Delete the next page, if it is time to look; raises the errors of the database."""
        if self.clock() < self.next_s:
            return
        before_us = time.time_ns() // 1000 - self.runtime.dead_letters.closed_days * _DAY_US
        with self.runtime.writer.begin() as connection:
            deleted = dead_letter_admin.delete_closed(connection, before_us, DELETED_AT_ONCE)
            if deleted < DELETED_AT_ONCE:
                dead_letter_counts.delete_zeros(connection)
                self.next_s = self.clock() + CHECK_EVERY_S
