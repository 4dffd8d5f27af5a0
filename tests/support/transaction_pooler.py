"""A connection pooler before a real PostgreSQL, which behaves as PgBouncer does with `pool_mode = transaction`.

    pooler = TransactionPooler(server.port)                       connect to pooler.port instead
    pooler = TransactionPooler(server.port, keeps_statements=True)  as PgBouncer with `max_prepared_statements`

All clients share one session of PostgreSQL, one transaction after the other. Their startup parameter `options` is
dropped. COPY and pipelines are not supported.
"""

import itertools
import socket
import struct
import threading
from contextlib import suppress

_ENCRYPTION_REQUESTS = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_ENDS_REQUEST = (b"Q", b"S")  # Query, Sync: PostgreSQL answers with ReadyForQuery


class TransactionPooler:
    """Stands before PostgreSQL; `port` is where it listens. Every client must have the same user and database."""

    def __init__(self, target_port: int, *, keeps_statements: bool = False) -> None:
        self._server = socket.create_connection(("127.0.0.1", target_port))
        self._server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._keeps_statements = keeps_statements
        self._session = threading.Lock()  # held from the first message of a transaction to its end
        self._greeting = b""  # what PostgreSQL answered to the first client's startup
        self._numbers = itertools.count()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening, and end the session of PostgreSQL."""
        self._listener.close()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(client, next(self._numbers)), daemon=True).start()

    def _serve(self, client: socket.socket, number: int) -> None:
        is_in_transaction = False
        try:
            self._start(client)
            while (message := _read_message(client))[:1] != b"X":
                if not is_in_transaction:
                    self._session.acquire()
                    is_in_transaction = True
                self._server.sendall(_renamed(message, number) if self._keeps_statements else message)
                if message[:1] in _ENDS_REQUEST:
                    answer = self._answer()
                    client.sendall(answer)
                    if answer[-1:] == b"I":
                        self._session.release()
                        is_in_transaction = False
        except OSError:
            pass
        finally:
            client.close()
            if is_in_transaction:
                self._session.release()

    def _start(self, client: socket.socket) -> None:
        while True:
            (size,) = struct.unpack("!i", _read(client, 4))
            body = _read(client, size - 4)
            if struct.unpack("!i", body[:4])[0] not in _ENCRYPTION_REQUESTS:
                break
            client.sendall(b"N")
        with self._session:
            if not self._greeting:
                words = body[4:].rstrip(b"\0").split(b"\0")
                kept = [
                    name + b"\0" + value + b"\0"
                    for name, value in zip(words[::2], words[1::2], strict=False)
                    if name != b"options"
                ]
                startup = body[:4] + b"".join(kept) + b"\0"
                self._server.sendall(struct.pack("!i", len(startup) + 4) + startup)
                self._greeting = self._answer()
        client.sendall(self._greeting)

    def _answer(self) -> bytes:
        """Read from PostgreSQL up to ReadyForQuery, whose last byte is the state of the transaction."""
        messages = [_read_message(self._server)]
        while messages[-1][:1] != b"Z":
            messages.append(_read_message(self._server))
        return b"".join(messages)


def _renamed(message: bytes, number: int) -> bytes:
    """Give the prepared statement that a message names a name of this client."""
    kind, body = message[:1], message[5:]
    if kind == b"P":
        before = b""
    elif kind == b"B":
        before = body[: body.index(b"\0") + 1]  # the portal
    elif kind in (b"D", b"C") and body[:1] == b"S":
        before = b"S"
    else:
        return message
    name = body[len(before) :]
    if name[:1] == b"\0":  # a statement without a name lives until the next one
        return message
    renamed = before + b"client_%d_" % number + name
    return kind + struct.pack("!i", len(renamed) + 4) + renamed


def _read_message(source: socket.socket) -> bytes:
    head = _read(source, 5)
    return head + _read(source, struct.unpack("!i", head[1:])[0] - 4)


def _read(source: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        chunk = source.recv(size - len(read))
        if not chunk:
            raise ConnectionResetError("the other end has closed the connection")
        read += chunk
    return read
