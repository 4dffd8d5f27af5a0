"""A load generator: GET requests over persistent connections, as lean as Python allows."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence

Request = tuple[str, Mapping[str, str]]


async def fetch_all(port: int, requests: Sequence[Request], connections: int) -> tuple[int, float]:
    """Send requests over so many connections at once; returns how many were answered with 200, and the seconds."""
    waiting = iter(requests)
    started = time.perf_counter()
    answered = await asyncio.gather(*(_client(port, waiting) for _ in range(connections)))
    return sum(answered), time.perf_counter() - started


async def _client(port: int, requests: Iterator[Request]) -> int:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0
    ok = 0
    for path, headers in requests:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        ok += head.startswith(b"HTTP/1.1 200")
    writer.close()
    return ok
