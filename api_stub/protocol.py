"""uvicorn's HTTP protocol, with one system call an answer instead of two."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class AnswersInOnePiece(HttpToolsProtocol):
    """Sends the head of an answer together with its body: handing bytes to the kernel costs more than making them."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a new connection."""
        self._answers = OncePerTurn(transport)
        super().connection_made(self._answers)

    def eof_received(self) -> None:
        """Send what is answered already: the event loop closes once the other side sends no more."""
        self._answers.flush()


class OncePerTurn(asyncio.Transport):
    """A transport that keeps what is written to it until the event loop's turn is over, and then sends all of it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._kept: list[Any] = []
        self._loop = asyncio.get_running_loop()

    def write(self, data: Any) -> None:
        """Send bytes when the turn is over."""
        if not self._kept:
            self._loop.call_soon(self.flush)
        self._kept.append(data)

    def close(self) -> None:
        """Send what was kept, and close."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether it is closing or closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the transport knows by a name."""
        return self._transport.get_extra_info(name, default)

    def pause_reading(self) -> None:
        """Take no more from the other side for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take from the other side again."""
        self._transport.resume_reading()

    def flush(self) -> None:
        """Send what was kept; to a connection that is gone nothing."""
        kept, self._kept = self._kept, []
        if kept and not self._transport.is_closing():
            self._transport.writelines(kept)
