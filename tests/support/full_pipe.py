"""A real pipe that is full: a write to it blocks until somebody reads."""

import os
import select
from contextlib import suppress
from typing import Self

FILLER = b"."


class FullPipe:
    """A pipe filled to its last byte. `writer` is its end to write to; `read` reads what it holds."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._found = b""
        os.set_blocking(self.writer, False)
        with suppress(BlockingIOError):
            while True:
                os.write(self.writer, FILLER * 4096)
        with suppress(BlockingIOError):
            while True:
                os.write(self.writer, FILLER)
        os.set_blocking(self.writer, True)
        os.set_blocking(self.reader, False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_writable(self) -> bool:
        """Whether a write would not block."""
        return bool(select.select([], [self.writer], [], 0)[1])

    def read(self) -> bool:
        """Read all that it holds now; returns True."""
        with suppress(BlockingIOError):
            while data := os.read(self.reader, 65536):
                self._found += data
        return True

    def lines(self) -> list[str]:
        """Return the lines that have been read, after the filler."""
        self.read()
        return self._found.lstrip(FILLER).decode().splitlines()

    def close(self) -> None:
        """Close both ends, which ends writes that wait."""
        os.close(self.reader)
        os.close(self.writer)
