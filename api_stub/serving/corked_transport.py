"""A transport that sends what is written in one iteration of the event loop with one system call.

The measurement is in docs/decisions/0038-a-lean-http-layer.md.
"""

import asyncio
from typing import Any


class CorkedTransport(asyncio.Transport):
    """A transport that buffers writes until the current iteration of the event loop ends, then sends them at once."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._buffer: list[Any] = []
        self._loop = asyncio.get_running_loop()

    def write(self, data: Any) -> None:
        """Send bytes at the end of the current iteration."""
        if not self._buffer:
            self._loop.call_soon(self.flush)
        self._buffer.append(data)

    def write_eof(self) -> None:
        """Send the buffer, then close the sending side."""
        self.flush()
        self._transport.write_eof()

    def abort(self) -> None:
        """Close at once, without sending the buffer."""
        self._transport.abort()

    def close(self) -> None:
        """Send the buffer, then close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the transport is closing or closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return information about the connection."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Stop reading from the client."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read from the client again."""
        self._transport.resume_reading()

    def flush(self) -> None:
        """Send the buffer, unless the connection is closing."""
        buffer, self._buffer = self._buffer, []
        if buffer and not self._transport.is_closing():
            self._transport.writelines(buffer)
