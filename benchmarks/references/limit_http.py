"""limit-http: the same server and framework as the API's, answering the same bytes from memory.

`python -m benchmarks.references.limit_http <port> <file>` serves the file's content on every path of the API.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import uvloop
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api_stub.app import application
from api_stub.handlers import json_response
from benchmarks import place
from benchmarks.asking import await_port
from benchmarks.place import Place
from cli.serve import _serve, _server

_numbers = count(1)


@contextmanager
def limit_http(where: Place, answer: bytes) -> Iterator[int]:
    """Serve an answer; yields the port."""
    file = where.directory / f"answer_{next(_numbers)}"
    file.write_bytes(answer)
    port = place.port()
    with where.process("benchmarks.references.limit_http", str(port), str(file)):
        await_port(port, "limit-http answers")
        yield port


def main(port: int, file: Path) -> None:
    body = file.read_bytes()

    async def answer(_request: Request) -> Response:
        return json_response(200, body)

    paths = ["/v1/config/projects/{slug}/stats", "/v1/config/monitoring/activity"]
    app = application([Route(path, answer, methods=["GET"]) for path in paths])
    uvloop.run(_serve([_server(app, "127.0.0.1", port)]))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
