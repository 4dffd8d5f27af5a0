"""The load generator: sends GET requests over persistent connections, in a process of its own.

`python -m benchmarks.load_generator <port> <connections> < requests.json` prints its figures as JSON.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import uvloop

from benchmarks.results import percentile
from benchmarks.row import Figures
from benchmarks.subprocesses import run_module

LoadRequest = tuple[str, Mapping[str, str]]

CONNECTIONS = 32
_WARM_UP = 0.1


def generate_load(port: int, requests: Sequence[LoadRequest], connections: int = CONNECTIONS) -> Figures:
    """Send requests to a port of this machine. Returns requests per second and percentiles of the latency.

    The first tenth warms up the server and is not measured. Raises BenchmarkError if any status is not 200.
    """
    return run_module("benchmarks.load_generator", port, connections, stdin=json.dumps(requests))


class _Client(asyncio.Protocol):
    """One connection that sends a request, waits for the whole response, and sends the next one."""

    def __init__(self, requests: Iterator[bytes], latencies_s: list[float]) -> None:
        self.requests = requests
        self.latencies_s = latencies_s
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.missing = -1
        self.head = b""
        self.sent_at = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        if self.missing < 0:
            self.head += data
            head, end, rest = self.head.partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 200"):
                self._end(RuntimeError(self.head.decode()))
                return
            self.missing = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(rest)
        else:
            self.missing -= len(data)
        if self.missing == 0:
            self.latencies_s.append(time.perf_counter() - self.sent_at)
            self._send()

    def connection_lost(self, _error: Exception | None) -> None:
        self._end(RuntimeError("the server closed the connection"))

    def _send(self) -> None:
        request = next(self.requests, None)
        if request is None:
            self._end(None)
            return
        self.missing, self.head, self.sent_at = -1, b"", time.perf_counter()
        self.transport.write(request)

    def _end(self, error: Exception | None) -> None:
        if self.ended.done():
            return
        if error is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(error)
        self.transport.close()


async def _fetch_all(port: int, requests: Sequence[bytes], connections: int) -> list[float]:
    """Send requests. Returns the latency of each in seconds."""
    waiting, latencies_s, loop = iter(requests), list[float](), asyncio.get_running_loop()
    clients = [
        (await loop.create_connection(lambda: _Client(waiting, latencies_s), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(client.ended for client in clients))
    return latencies_s


def _raw(path: str, headers: Mapping[str, str]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"GET {path} HTTP/1.1\r\nHost: bench\r\n{lines}\r\n".encode()


def main(port: int, connections: int) -> None:
    requests = [_raw(path, headers) for path, headers in json.load(sys.stdin)]
    warm_up = int(len(requests) * _WARM_UP)
    uvloop.run(_fetch_all(port, requests[:warm_up], connections))
    started = time.perf_counter()
    latencies_s = uvloop.run(_fetch_all(port, requests[warm_up:], connections))
    took_s = time.perf_counter() - started
    figures = {
        "requests/s": len(latencies_s) / took_s,
        "p50 ms": percentile(latencies_s, 50) * 1000,
        "p99 ms": percentile(latencies_s, 99) * 1000,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
