"""BatchSize: how many entries of a partition to read next, and how long to wait after a failure.

Why batches start small and are bounded: docs/decisions/0014-bound-batches.md
"""

import time
from dataclasses import dataclass

from redis.backoff import EqualJitterBackoff

from event_stream.streams.entries import StreamSlice
from event_stream.streams.stream import READ_BYTES_MAX

# A process starts with the smallest batch: the one before it may have been killed because of its memory.
ENTRIES_FIRST = 1
ENTRIES_MAX = 8_000
# After `count` entries, the next batch may have GROWTH_FACTOR * count ** 2: 64 after the first entry.
GROWTH_FACTOR = 64
BYTES_MAX = READ_BYTES_MAX
NARROWING_STEPS_MAX = 16  # halving ENTRIES_MAX reaches one entry in 12; that entry then fails alone
MEMORY_SHORT_S = 60.0
KILLED_S = 30.0
BACK_OFF_FIRST_S = 0.4
BACK_OFF_MAX_S = 15.0


@dataclass
class BatchSize:
    """The size of the next batch of one partition in one process.

    It is kept across drains of the process. Losing it costs only time.
    """

    count: int = ENTRIES_FIRST
    consecutive_failures: int = 0
    consecutive_waits: int = 0
    # The most entries to read until `memory_limit_until_s`, after memory ran short.
    memory_limit: int = ENTRIES_MAX
    memory_limit_until_s: float = 0.0
    is_new: bool = True  # until the first read of the process
    largest_applied: int = 0  # the most entries that were requested for a batch that was applied
    last_bytes: int = 0
    grows_slowly: bool = False

    @property
    def allows_read_ahead(self) -> bool:
        """Whether two batches may be in memory at once: no after a failure, and no while reading single entries."""
        return self.count > ENTRIES_FIRST and not self.consecutive_failures

    def next_count(self, done: StreamSlice) -> int:
        """Return how many entries to read after `done` is applied: more, but within all limits. Remember its bytes."""
        entries = max(1, len(done.entries))
        self.last_bytes = done.size
        byte_limit = max(1, BYTES_MAX * entries // max(1, self.last_bytes))
        limit = self.memory_limit if time.monotonic() < self.memory_limit_until_s else ENTRIES_MAX
        grown = 2 * self.count if self.grows_slowly else self.count**2 * GROWTH_FACTOR
        return min(grown, byte_limit, limit)

    def grow(self, count: int) -> None:
        """Read `count` entries next, after a batch that was applied."""
        self.consecutive_failures = self.consecutive_waits = 0
        self.largest_applied = max(self.largest_applied, self.count)
        self.count = count

    def shrink(self) -> None:
        """Read half as many entries next, after a batch that failed."""
        self.shrink_to(self.count // 2)

    def shrink_to(self, count: int) -> None:
        """Read `count` entries next, but at least one, after a batch that failed."""
        self.consecutive_failures += 1
        self.count = max(1, count)

    def shrink_for_memory(self) -> bool:
        """Halve the batch size and keep it as a limit for MEMORY_SHORT_S; returns whether the size became smaller.

        Waiting would not free memory. Without the limit, the next success would grow the batch beyond the size that
        just failed.
        """
        is_less = self.count > 1
        self.shrink()
        self.memory_limit = self.count
        self.memory_limit_until_s = time.monotonic() + MEMORY_SHORT_S
        return is_less

    def limit_after_kill(self, count: int) -> None:
        """Start with one entry and grow by doubling, for KILLED_S up to half of the batch that a process died of."""
        self.memory_limit = max(1, count // 2)
        self.memory_limit_until_s = time.monotonic() + KILLED_S
        self.grows_slowly = True
        self.count = ENTRIES_FIRST

    def next_pause_s(self) -> float:
        """Return the seconds to wait after a failure: exponential back-off with jitter, reset by `grow`."""
        pause_s = EqualJitterBackoff(BACK_OFF_MAX_S, BACK_OFF_FIRST_S).compute(min(self.consecutive_waits, 10))
        self.consecutive_waits += 1
        return pause_s
