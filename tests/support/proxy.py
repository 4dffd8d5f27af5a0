"""A TCP proxy before a real server that simulates network faults.

    proxy = Proxy(server.port)          connect to proxy.port instead
    proxy.latency_s = 2.0               delays every chunk, in both directions
    proxy.bytes_per_s = 1e6             limits the bandwidth of each connection
    proxy.partition() / proxy.heal()    drops nothing and delivers nothing, like a dead switch
    proxy.refuse() / proxy.heal()       resets open and new connections
    proxy.cut()                         resets every open connection
    proxy.retarget(other.port)          sends new connections to another server; open ones stay
    proxy.cut_before(b"COMMIT")         drops the first request that contains these bytes
    proxy.cut_after(b"COMMIT")          delivers that request and drops its response

`happened` counts the connections that were cut, so that a test can prove that its fault happened.
"""

import select
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

CHUNK_BYTES = 65_536
LOOK_EVERY_S = 0.02
ANSWER_WITHIN_S = 10.0


@dataclass(frozen=True)
class _Cut:
    pattern: bytes
    after: bool


class Proxy:
    """Stands before a server on this machine; `port` is where it listens."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.latency_s = 0.0
        self.bytes_per_s = float("inf")
        self.happened = 0
        self._cut: _Cut | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._refusing = False
        self._closed = False
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def partition(self) -> None:
        """Deliver nothing from now on, and close nothing."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Reset open and new connections."""
        self._refusing = True
        self.cut()

    def heal(self) -> None:
        """End all faults; delayed data is delivered now."""
        self.latency_s = 0.0
        self._refusing = False
        self._cut = None
        self._flowing.set()

    def cut(self) -> None:
        """Reset every open connection."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)

    def retarget(self, port: int) -> None:
        """Send new connections to another server; open connections stay."""
        self.target_port = port

    def cut_before(self, pattern: bytes) -> None:
        """Reset the connection of the next request that contains `pattern` before the server receives it. Once."""
        self._cut = _Cut(pattern, after=False)

    def cut_after(self, pattern: bytes) -> None:
        """Deliver the next request that contains `pattern` and reset its connection before the response. Once."""
        self._cut = _Cut(pattern, after=True)

    def close(self) -> None:
        """Stop listening and reset everything."""
        self._closed = True
        self._flowing.set()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while not self._closed:
            with suppress(OSError):
                client, _ = self._listener.accept()
                if self._refusing:
                    _reset(client)
                    continue
                try:
                    server = socket.create_connection(("127.0.0.1", self.target_port))
                except OSError:
                    _reset(client)
                    continue
                for end in (client, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                pair = (client, server)
                with self._lock:
                    self._pairs.add(pair)
                threading.Thread(target=self._carry, args=(pair,), daemon=True).start()

    def _carry(self, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        on_the_way: deque[tuple[float, socket.socket, bytes]] = deque()
        with suppress(OSError, ValueError):
            while not self._closed:
                self._flowing.wait()
                readable, _, _ = select.select(pair, [], [], LOOK_EVERY_S)
                for source in readable:
                    chunk = source.recv(CHUNK_BYTES)
                    if not chunk:
                        return self._reset(pair, counted=False)
                    on_the_way.append((time.monotonic() + self.latency_s, source, chunk))
                while on_the_way and on_the_way[0][0] <= time.monotonic() and self._flowing.is_set():
                    _, source, chunk = on_the_way.popleft()
                    if source is client and self._is_fatal(chunk, server):
                        return self._reset(pair)
                    time.sleep(len(chunk) / self.bytes_per_s)
                    (server if source is client else client).sendall(chunk)
        return self._reset(pair, counted=False)

    def _is_fatal(self, chunk: bytes, server: socket.socket) -> bool:
        """Apply a pending cut to a request; returns whether to reset its connection now."""
        with self._lock:
            cut = self._cut
            if cut is None or cut.pattern not in chunk:
                return False
            self._cut = None
        if cut.after:
            server.sendall(chunk)
            select.select([server], [], [], ANSWER_WITHIN_S)  # wait for the response, and do not forward it
        return True

    def _reset(self, pair: tuple[socket.socket, socket.socket], *, counted: bool = True) -> None:
        with self._lock:
            if pair not in self._pairs:
                return
            self._pairs.discard(pair)
            self.happened += counted
        for end in pair:
            _reset(end)


def _reset(end: socket.socket) -> None:
    """Close with RST instead of FIN, like a cut cable."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        end.shutdown(socket.SHUT_RD)
    end.close()
