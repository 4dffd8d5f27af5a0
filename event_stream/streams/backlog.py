"""`Backlog`: refuses appends to a partition that has too many entries not yet projected."""

import time
from collections import Counter
from collections.abc import Mapping

from event_stream.errors import EventStreamError
from event_stream.plurals import counted
from event_stream.streams.stream import Stream

_REFRESH_EVERY_S = 1.0


class BacklogFullError(EventStreamError):
    """A partition has more entries not yet projected than PROJECTOR_BACKLOG_LIMIT."""


class Backlog:
    """The number of entries not yet projected, by partition. Read at most once a second, and counted in between."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._unprojected: Counter[int] = Counter()
        self._refreshed_at = float("-inf")

    def reserve(self, new_entries: Mapping[int, int]) -> None:
        """Count `wanted` more entries by partition; raises BacklogFullError if a partition would exceed the limit."""
        if time.monotonic() - self._refreshed_at > _REFRESH_EVERY_S or self._over_limit(new_entries):
            self._refresh()
        if full := self._over_limit(new_entries):
            raise BacklogFullError(
                f"partition {full[0]} has {counted(self._unprojected[full[0]], 'entry')} not yet projected and"
                f" PROJECTOR_BACKLOG_LIMIT is {self._limit:,}; wait, or start workers"
            )
        self._unprojected.update(new_entries)

    def _over_limit(self, new_entries: Mapping[int, int]) -> list[int]:
        return [
            partition for partition, count in new_entries.items() if self._unprojected[partition] + count > self._limit
        ]

    def _refresh(self) -> None:
        ends = self._stream.ends()
        progress = self._stream.projected(range(self._stream.partitions))
        # At most the stream's length: after a stream was lost, the progress may be that of the stream before it.
        self._unprojected = Counter(
            {
                partition: min(end.length, max(0, end.added - progress[partition].entries))
                for partition, end in enumerate(ends)
            }
        )
        self._refreshed_at = time.monotonic()
