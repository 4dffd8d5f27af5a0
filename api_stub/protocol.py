"""uvicorn's HTTP protocol, with one system call per response instead of two.

See docs/decisions/0038-a-lean-http-layer.md.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CorkedProtocol(HttpToolsProtocol):
    """Sends the head and the body of a response together."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the transport of a new connection."""
        self._corked = CorkedTransport(transport)
        super().connection_made(self._corked)

    def eof_received(self) -> None:
        """Send the buffer, because the event loop closes the connection after the client has closed its side."""
        self._corked.flush()


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
