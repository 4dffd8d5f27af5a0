"""limit-http: uvicorn and Starlette as they come, answering the same bytes as the API from memory.

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

from benchmarks.asking import await_port
from benchmarks.place import Place
from tests.support.servers import free_port

_numbers = count(1)


@contextmanager
def limit_http(where: Place, answer: bytes) -> Iterator[int]:
    """Serve an answer; yields the port."""
    file = where.directory / f"answer_{next(_numbers)}"
    file.write_bytes(answer)
    port = free_port()
    with where.process("benchmarks.references.limit_http", str(port), str(file)):
        await_port(port, "limit-http answers")
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
