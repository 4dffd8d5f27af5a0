"""`RawReply`: a reply as it arrives, for replies that may be too large to hold in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_RECEIVED_AT_ONCE = 65_536


class RawReply:
    """The reply to a command, in RESP2 or RESP3, read from the connection's socket part by part."""

    def __init__(self, connection: Any) -> None:
        self._sock = connection._sock  # noqa: SLF001 (tests/unit/test_library_internals.py)
        self._received = bytearray()

    def head(self) -> tuple[bytes, str]:
        """Return the kind of the next value, such as `$`, and the rest of its first line; raises ResponseError."""
        while (end := self._received.find(b"\r\n")) < 0:
            self._receive()
        line = self._take(end + 2)
        kind, text = line[:1], line[1:-2].decode()
        if kind == b"-":
            raise ResponseError(text)
        return kind, text

    def iter_value(self, size: int) -> Iterator[bytes]:
        """Yield the value of this size that follows its head, in chunks."""
        while size:
            if not self._received:
                self._receive()
            chunk = self._take(min(size, len(self._received)))
            size -= len(chunk)
            yield chunk
        self._skip_line_end()

    def _skip_line_end(self) -> None:
        while len(self._received) < 2:
            self._receive()
        self._take(2)

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    def _receive(self) -> None:
        try:
            received = self._sock.recv(_RECEIVED_AT_ONCE)
        except TimeoutError as error:
            raise RedisTimeoutError("the server did not answer in time") from error
        except OSError as error:
            raise RedisConnectionError(f"the connection was lost: {error}") from error
        if not received:
            raise RedisConnectionError("the server closed the connection")
        self._received += received


@contextmanager
def connection_of(redis: Redis) -> Iterator[Any]:
    """Yield a connection of the pool, and close it after an error: its next user would read the rest of the reply."""
    pool = redis.connection_pool
    connection: Any = pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)
