"""Raw HTTP clients, and an API that really listens, with limits that a test chooses."""

import asyncio
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import uvloop
from starlette.types import ASGIApp

from api_stub.serving.connections import Phase
from api_stub.serving.limits import Limits
from api_stub.serving.listener import Listener
from api_stub.serving.shutdown import Shutdown
from tests.support.servers import free_port, wait_until

GET = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"
ANSWER_TIMEOUT_S = 20


@dataclass(frozen=True)
class RunningListener:
    """A listener in a thread of this process."""

    port: int
    listener: Listener
    shutdown: Shutdown

    @property
    def open_connections(self) -> int:
        return self.listener._connections.open

    @property
    def answering(self) -> int:
        """How many connections wait for a response."""
        return len(self.listener._connections.waiting(Phase.ANSWERING))

    def connect(self, sent: bytes = b"") -> socket.socket:
        """Open a connection and send bytes."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_TIMEOUT_S)
        connection.sendall(sent)
        return connection


@contextmanager
def run_listener(app: ASGIApp, limits: Limits, health_paths: tuple[str, ...] = ()) -> Iterator[RunningListener]:
    """Serve an application over real connections until the end of the block."""
    port, shutdown = free_port(), Shutdown()
    listener = Listener(app, ("127.0.0.1", port), limits, shutdown, health_paths)
    loop = uvloop.new_event_loop()

    def serve() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(listener.serve())
        loop.close()

    thread = threading.Thread(target=serve)
    thread.start()
    wait_until(lambda: is_listening(port), "the listener listens")
    try:
        yield RunningListener(port, listener, shutdown)
    finally:
        asyncio.run_coroutine_threadsafe(listener.end(), loop).result(ANSWER_TIMEOUT_S)
        thread.join(ANSWER_TIMEOUT_S)
        assert not thread.is_alive()


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def response(connection: socket.socket) -> tuple[int, bytes, bytes]:
    """Read one response: its status, its head and its body. Raises ConnectionError if none comes."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += _more(connection)
    return int(head.split()[1]), head, body


def read_until_closed(connection: socket.socket) -> bytes:
    """Read everything until the server closes the connection, politely or not."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionResetError:
        pass
    return received


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection that has nothing left to read."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        connection.settimeout(ANSWER_TIMEOUT_S)


def is_readable(connection: socket.socket) -> bool:
    """Whether the server has sent something or has closed the connection."""
    return bool(select.select([connection], [], [], 0)[0])


def send_until_refused(connection: socket.socket, piece: bytes, at_most: int) -> int:
    """Send a piece again and again until the server closes the connection. Returns how many bytes it took."""
    sent = 0
    deadline = time.monotonic() + ANSWER_TIMEOUT_S
    try:
        while sent < at_most:
            assert time.monotonic() < deadline, "the server neither reads nor refuses"
            sent += connection.send(piece)
    except (BrokenPipeError, ConnectionResetError):
        return sent
    raise AssertionError(f"the server took {sent:,} bytes")


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    if not data:
        raise ConnectionError("the server closed the connection before its response was complete")
    return data
