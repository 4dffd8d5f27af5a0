"""limit-http: uvicorn and Starlette with their defaults, which send the same bytes as the API from memory.

`python -m benchmarks.references.limit_http <port> <file>` serves the file's content on every path of the API.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.api_process import wait_for_port
from benchmarks.sandbox import Sandbox
from tests.support.servers import free_port

_numbers = count(1)


@contextmanager
def limit_http(sandbox: Sandbox, body: bytes) -> Iterator[int]:
    """Serve a body until the end of the block. Yields the port."""
    file = sandbox.directory / f"body_{next(_numbers)}"
    file.write_bytes(body)
    port = free_port()
    with sandbox.process("benchmarks.references.limit_http", str(port), str(file)):
        wait_for_port(port, "limit-http answers")
        yield port


def main(port: int, file: Path) -> None:
    body = file.read_bytes()

    async def answer(_request: Request) -> Response:
        return Response(body, media_type="application/json")

    paths = ["/v1/config/projects/{slug}/stats", "/v1/config/monitoring/activity"]
    app = Starlette(routes=[Route(path, answer) for path in paths])
    uvicorn.run(app, port=port, access_log=False, log_level="warning", lifespan="off", server_header=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
