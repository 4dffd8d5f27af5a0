"""HTTP clients of a run: a reader that expects answers throughout, and clients that harm the API by being slow."""

import socket
import threading
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from tests.support.http_clients import is_closed, response

CONNECTIONS_MAX = 60  # of the API
SILENT = CONNECTIONS_MAX * 2
UNREADING = CONNECTIONS_MAX // 12  # a run has up to eight faults; the reader's connection is the last that is closed
# A machine that stalls is no broken promise.
ANSWERED_WITHIN_S = 30
REQUEST = b"GET /v1/config/projects/checkout/stats HTTP/1.1\r\nHost: here\r\n\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n"


@dataclass
class Reader:
    """A client that reads over and over again, from a thread, over one connection that it keeps."""

    port: int
    problems: list[str] = field(default_factory=list)
    answers: int = 0

    def __post_init__(self) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _read(self) -> None:
        while not self._ended.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), ANSWERED_WITHIN_S) as connection:
                    while not self._ended.wait(0.01):
                        for request, expected in ((HEALTH, 200), (REQUEST, 401)):
                            connection.sendall(request)
                            status = response(connection)[0]
                            if status != expected:
                                self.problems.append(f"status {status}")
                            self.answers += 1
            except OSError as error:
                self.problems.append(repr(error))


class SilentClients:
    """Clients that send nothing or half a request. They hold more connections than the API accepts."""

    def __init__(self, port: int) -> None:
        self._stack = ExitStack()
        self._connections = [
            self._stack.enter_context(socket.create_connection(("127.0.0.1", port), ANSWERED_WITHIN_S))
            for _ in range(SILENT)
        ]
        for connection in self._connections[::2]:
            with suppress(OSError):
                connection.sendall(REQUEST[:20])

    def end(self) -> bool:
        """Close the connections. Returns whether the API had closed some."""
        happened = any(is_closed(connection) for connection in self._connections)
        self._stack.close()
        return happened


class UnreadingClients:
    """Clients that send requests ahead and never read an answer."""

    def __init__(self, port: int) -> None:
        self._stack = ExitStack()
        self._blocked = 0
        for _ in range(UNREADING):
            connection = self._stack.enter_context(socket.create_connection(("127.0.0.1", port), ANSWERED_WITHIN_S))
            connection.setblocking(False)
            try:
                while True:
                    connection.send(REQUEST * 500)
            except OSError:  # the API does not read on, or has closed the connection
                self._blocked += 1

    def end(self) -> bool:
        """Close the connections. Returns whether the API had stopped reading from some."""
        self._stack.close()
        return self._blocked > 0
