"""Clients of one tenant ask for many large responses and do not read them: no other tenant waits, memory is bounded."""

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from api_stub.serving.limits import Limits
from api_stub.tenant_slots import SLOTS_PER_TENANT
from tests.support.api_client import Api
from tests.support.events import TENANT, event
from tests.support.harness import append, drain_all
from tests.support.http_clients import RunningListener, response, run_listener
from workers.runtime import Runtime

pytestmark = [pytest.mark.first, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]
PROJECTS = 900  # a page of 7 MB, which no buffers of sockets hold
OTHER = "ten_other"


@pytest.fixture
def api(runtime: Runtime, writer: Engine, reader: Engine) -> Iterator[Api]:
    append(
        runtime,
        *(
            event("project.created.v1", {"llmContext": "🚨" * 2000}, projectid=f"00000000-0000-4000-8000-{each:012}")
            for each in range(PROJECTS)
        ),
        event("project.created.v1", tenantid=OTHER),
    )
    drain_all(runtime)
    made = Api(writer, reader)
    yield made
    made.close()


def request_of(key: str) -> bytes:
    return f"GET /v1/config/projects HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n\r\n".encode()


def connect_slow(server: RunningListener, sent: bytes) -> socket.socket:
    """Send a request over a connection that takes little at a time."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(20)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(sent)
    return connection


def test_slow_readers_of_one_tenant_hold_few_responses_and_delay_no_other_tenant(api: Api) -> None:
    mine, other = request_of(api.key(TENANT)), request_of(api.key(OTHER))
    with run_listener(api.app, Limits(100, 75)) as server, ExitStack() as stack:
        slow = [stack.enter_context(connect_slow(server, mine)) for _ in range(3 * SLOTS_PER_TENANT)]
        with server.connect(other) as neighbour:
            assert response(neighbour)[0] == 200
        statuses = {each: int(each.recv(12, socket.MSG_PEEK).split()[1]) for each in slow}
        assert Counter(statuses.values()) == {200: SLOTS_PER_TENANT, 429: 2 * SLOTS_PER_TENANT}
        assert response(next(each for each, status in statuses.items() if status == 200))[0] == 200
        with server.connect(mine) as again:
            assert response(again)[0] == 200
