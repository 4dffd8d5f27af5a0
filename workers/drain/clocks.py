"""Clocks: the three clocks that decide whether an event is in the future.

docs/decisions/0048-hold-times-against-two-of-three-clocks.md
"""

import time
from dataclasses import dataclass

from sqlalchemy import Engine

from event_stream.events.rfc3339 import format_time
from projections.database.clock import read_clock_ms


class DatabaseClockNeededError(Exception):
    """An event is in the future unless the database's clock, which was not read yet, says otherwise."""


@dataclass
class Clocks:
    """Redis's clock, as an entry's id shows it, this worker's clock, and the database's clock when it was last read."""

    reader: Engine
    database_ms: int = 0
    _is_fresh: bool = False

    def now_ms(self, entry_ms: int) -> int:
        """Return a time that two of the three clocks have reached. It is too early while the database's is unread."""
        return sorted((entry_ms, _worker_ms(), self.database_ms))[1]

    def expire(self) -> None:
        """Do not refuse any more events before the database's clock is read again. Its last time still counts."""
        self._is_fresh = False

    def read_database(self) -> None:
        """Read the database's clock; raises the errors of the database."""
        with self.reader.connect() as connection:
            self.database_ms = read_clock_ms(connection)
        self._is_fresh = True

    def explain(self, entry_ms: int) -> str:
        """Return what each clock shows; raises DatabaseClockNeededError if the database's has to be read first."""
        if not self._is_fresh:
            raise DatabaseClockNeededError
        shown = {"the entry's id": entry_ms, "the database": self.database_ms, "this worker": _worker_ms()}
        return ", ".join(f"{name} {format_time(at_ms * 1000)}" for name, at_ms in shown.items())


def _worker_ms() -> int:
    return int(time.time() * 1000)
