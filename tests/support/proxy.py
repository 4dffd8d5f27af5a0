"""A network that misbehaves on purpose: a TCP proxy before a real server, and what can go wrong on its wires.

    proxy = Proxy(server.port)          connect to proxy.port instead
    proxy.latency_s = 2.0               every chunk arrives that much later, in both directions
    proxy.bytes_per_s = 1e6             so much gets through on each connection
    proxy.partition() / proxy.heal()    nothing arrives, nothing is closed: what a dead switch looks like
    proxy.refuse() / proxy.heal()       nobody listens any more, connections are reset
    proxy.cut()                         resets every connection that is open now
    proxy.retarget(other.port)          whoever connects from now on reaches another server, others stay where they are
    proxy.cut_before(b"COMMIT")         the first request that holds these bytes never reaches the server
    proxy.cut_after(b"COMMIT")          it does, and is carried out, but its answer never comes back

`happened` counts the connections that were cut, so that a test can prove that its fault really happened.
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
        """Let nothing through from now on, and close nothing."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Reset what is open and whatever connects from now on."""
        self._refusing = True
        self.cut()

    def heal(self) -> None:
        """Let everything through again; what was held back arrives now."""
        self.latency_s = 0.0
        self._refusing = False
        self._cut = None
        self._flowing.set()

    def cut(self) -> None:
        """Reset every connection that is open now."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._reset(pair)

    def retarget(self, port: int) -> None:
        """Lead whoever connects from now on to another server; connections that are open stay with theirs."""
        self.target_port = port

    def cut_before(self, pattern: bytes) -> None:
        """Cut the connection of the next request that holds `pattern`, before the server gets it. Once."""
        self._cut = _Cut(pattern, after=False)

    def cut_after(self, pattern: bytes) -> None:
        """Let the next request that holds `pattern` be carried out, and cut its connection before the answer. Once."""
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
        """Carry out what a cut asks for; returns whether the connection is to be cut now."""
        with self._lock:
            cut = self._cut
            if cut is None or cut.pattern not in chunk:
                return False
            self._cut = None
        if cut.after:
            server.sendall(chunk)
            select.select([server], [], [], ANSWER_WITHIN_S)  # the answer is there, and stays here
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
    """Close with a reset, not with a farewell: what a cut cable looks like."""
    with suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        end.shutdown(socket.SHUT_RD)
    end.close()
