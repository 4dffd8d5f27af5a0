"""A guard in front of uvicorn's protocol: it limits what a connection sends, and passes on one request at a time.

See docs/decisions/0050-a-guard-in-front-of-uvicorn.md.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from api_stub import errors
from api_stub.errors import ApiError
from api_stub.serving.connections import Connections, Phase
from api_stub.serving.corked_transport import CorkedTransport
from api_stub.serving.head_meter import HEAD_BYTES_MAX, HeadMeter
from api_stub.serving.limits import DISCARDED_BYTES_MAX


class ConnectionGuard(asyncio.Protocol):
    """One connection. `inner` is uvicorn's protocol, which parses requests and writes responses."""

    def __init__(self, connections: Connections, inner: asyncio.Protocol) -> None:
        self.phase = Phase.CLOSED
        self.is_reserved = False
        self._connections = connections
        self._inner = inner
        self._transport: Any = None
        self._head = HeadMeter()
        self._waiting = bytearray()  # requests that arrived before the one before them was answered
        self._is_answering = False
        self._is_half_closed = False
        self._is_unread = False
        self._is_refused = False
        self._discards = False
        self._discarded = 0

    @property
    def closes_after_response(self) -> bool:
        """Whether the next response is the last: the connection is a reserved one, or a body is not read."""
        return self.is_reserved or self._discards

    def connection_made(self, transport: Any) -> None:
        """Count the connection, and make room for it."""
        if self._connections.admit(self):
            self._transport = CorkedTransport(transport)
            self._inner.connection_made(self._transport)
        else:
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Stop counting the connection."""
        self._connections.forget(self)
        if self._transport is not None:
            self._inner.connection_lost(error)

    def data_received(self, data: bytes) -> None:
        """Pass bytes on up to the end of a request's head, and keep the rest until its response is sent."""
        if self._discards:
            self._discard(len(data))
        elif self._waiting or self._is_busy:
            self._waiting += data
            self._transport.pause_reading()
        else:
            self._pass_on(data)

    def eof_received(self) -> bool:
        """Keep the connection of a client that has sent its last request until that is answered."""
        self._is_half_closed = True
        self._close_if_done()
        return True

    def pause_writing(self) -> None:
        """Note that the client does not read."""
        self._is_unread = True
        self._update_phase()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        self._is_unread = False
        self._update_phase()
        self._inner.resume_writing()

    def request_began(self) -> None:
        """Note that the application begins to answer."""
        self._is_answering = True
        self._head.begin()
        self._update_phase()

    def request_ended(self) -> None:
        """Note that the application has sent its response."""
        self._is_answering = False
        self._update_phase()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._pass_on_waiting)
        else:
            self._close_if_done()

    def time_out(self) -> None:
        """End a connection that has waited too long. A request that began to arrive gets a response."""
        if self.phase is not Phase.RECEIVING or self._transport.is_closing():
            self.abort()
        elif self._head.is_complete:  # after a pause of this process
            self._connections.enter(self, Phase.RECEIVING)
        else:
            self._refuse(errors.request_timeout())

    def abort(self) -> None:
        """Close the connection at once."""
        self._connections.forget(self)
        self._transport.abort()

    def close(self) -> None:
        """Close the connection after what was written has been sent."""
        self._transport.close()

    @property
    def _is_busy(self) -> bool:
        return self._is_answering or self._head.is_complete

    def _pass_on(self, data: bytes) -> int:
        taken = self._head.take(data)
        if self._head.error is not None:
            self._connections.count_closed("too_large")
            self._refuse(self._head.error)
            return taken
        self._discards = self._head.is_complete and self._head.has_body
        if taken < len(data):
            if self._discards:
                self._discard(len(data) - taken)
            elif not self._waiting:
                self._waiting += data[taken:]
                self._transport.pause_reading()
            data = data[:taken]
        self._update_phase()
        self._inner.data_received(data)
        return taken

    def _pass_on_waiting(self) -> None:
        if self._transport.is_closing():
            self._waiting.clear()
            self._update_phase()
            return
        next_head = bytes(self._waiting[: HEAD_BYTES_MAX + 1])
        del self._waiting[: self._pass_on(next_head)]
        self._update_phase()
        if not self._waiting:
            self._transport.resume_reading()

    def _close_if_done(self) -> None:
        if self._is_half_closed and not self._waiting and not self._is_busy:
            self.close()

    def _refuse(self, error: ApiError) -> None:
        """Send an error, then wait until the client closes: closing first could destroy what it has not read."""
        self._is_refused = self._discards = True
        self._transport.write(_raw_response(error))
        self._transport.write_eof()
        self._update_phase()
        self._waiting.clear()
        self._transport.resume_reading()

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > DISCARDED_BYTES_MAX:
            self.abort()

    def _update_phase(self) -> None:
        if self._is_unread or self._is_refused:
            phase = Phase.UNREAD
        elif self._is_answering or self._waiting:
            phase = Phase.ANSWERING
        else:
            phase = Phase.RECEIVING if self._head.size else Phase.IDLE
        if phase is not self.phase:
            self._connections.enter(self, phase)


def _raw_response(error: ApiError) -> bytes:
    body = error.body()
    lines = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "connection: close",
        "",
        "",
    )
    return "\r\n".join(lines).encode() + body
