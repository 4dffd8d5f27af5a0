"""`BackgroundStream`: writes text to a file descriptor in a thread, so that a reader that stops never blocks work."""

import atexit
import os
import select
import sys
import time
from contextlib import suppress
from io import TextIOBase
from queue import Empty, SimpleQueue
from threading import Event, Thread

import structlog

WRITES_MAX = 1_000  # waiting writes, most of which are one log line
FINISH_S = 1.0
REPORT_EVERY_S = 1.0

log = structlog.get_logger()


class BackgroundStream(TextIOBase):
    """A text stream whose `write` never waits. While the reader is too slow, the oldest waiting writes are dropped.

    Dropped writes are counted, and reported once the reader reads again. `wait_until_written` gives up after FINISH_S.
    Why: docs/decisions/0060-logging-never-blocks-work.md
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.dropped = 0
        self._start_over()
        os.register_at_fork(after_in_child=self._start_over)

    def write(self, text: str) -> int:
        """Add a text to those that wait to be written. It may be called in a signal handler.

        Raises TypeError if it is not a text, by which click tells text streams from binary ones.
        """
        if not isinstance(text, str):
            raise TypeError(f"must be str, not {type(text).__name__}")
        while self._waiting.qsize() >= WRITES_MAX:
            with suppress(Empty):
                self._waiting.get_nowait()
                self._count_dropped()
        self._waiting.put(text)
        self._start_thread()
        return len(text)

    def wait_until_written(self) -> None:
        """Wait until everything is written, at most FINISH_S."""
        if self._thread is None:
            return
        written = Event()
        self._waiting.put(written)
        written.wait(FINISH_S)

    def fileno(self) -> int:
        """Return the file descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        """Return True."""
        return True

    def _start_over(self) -> None:
        """Start with nothing to write; a forked process has a copy of its parent's texts, but not its thread."""
        # SimpleQueue, because a signal handler may interrupt its `put` and call it again.
        self._waiting: SimpleQueue[str | Event] = SimpleQueue()
        self._thread: Thread | None = None
        self._unreported = 0

    def _start_thread(self) -> None:
        # Not before the first text: a process without threads can fork safely.
        if self._thread is None:
            self._thread = Thread(target=self._write_waiting, name="log writer", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # out of threads; the next text tries again
                self._thread = None

    def _write_waiting(self) -> None:
        reported_at = float("-inf")
        while True:
            item = self._waiting.get()  # this makes room for the report
            if self._unreported and (isinstance(item, Event) or time.monotonic() - reported_at > REPORT_EVERY_S):
                dropped, self._unreported = self._unreported, 0
                log.warning("logs.dropped", dropped=dropped)
                reported_at = time.monotonic()
                if isinstance(item, Event):
                    self._waiting.put(item)
                    continue
            if isinstance(item, Event):
                item.set()
            else:
                self._write_now(item.encode(self.encoding, self.errors))

    def _write_now(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process made the descriptor non-blocking
                select.select([], [self._descriptor], [])
            except OSError:  # nobody reads any more, or the disk is full
                self._count_dropped()
                return

    def _count_dropped(self) -> None:
        self.dropped += 1
        self._unreported += 1


def write_stderr_in_background() -> None:
    """Replace `sys.stderr` of this process by a BackgroundStream, unless it is one, and wait for it at exit."""
    if not isinstance(sys.stderr, BackgroundStream):
        sys.stderr = BackgroundStream(sys.stderr.fileno())
        atexit.register(finish_stderr)


def finish_stderr() -> None:
    """Wait until everything is written to `sys.stderr`, at most FINISH_S; for processes that end without atexit."""
    if isinstance(sys.stderr, BackgroundStream):
        sys.stderr.wait_until_written()


def dropped_from_stderr() -> int:
    """Return how many writes to `sys.stderr` this process has dropped."""
    return sys.stderr.dropped if isinstance(sys.stderr, BackgroundStream) else 0
