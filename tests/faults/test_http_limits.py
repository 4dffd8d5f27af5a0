"""Clients that send too much, too slowly or nothing at all: each is refused, and other readers do not notice."""

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest
import structlog
from sqlalchemy import Engine
from starlette.types import ASGIApp

from api_stub.errors import HEADERS_BYTES_MAX, URL_BYTES_MAX
from api_stub.serving import connections
from api_stub.serving.limits import DISCARDED_BYTES_MAX, Limits
from tests.support.api_client import Api
from tests.support.http_clients import (
    GET,
    RunningListener,
    is_closed,
    is_readable,
    read_until_closed,
    response,
    run_listener,
    send_until_refused,
)
from tests.support.servers import wait_until

pytestmark = [pytest.mark.first, pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)]
SLOW = b"GET /slow HTTP/1.1\r\nHost: here\r\n\r\n"
ENDLESS = 64 * 1024 * 1024
PATIENT = Limits(connections_max=50)
# Short enough for a test, and long enough that a connection in use is never closed on a machine that stalls.
HASTY = Limits(connections_max=50, keep_alive_s=60, first_byte_s=0.3, head_s=0.3, unread_s=0.3)


@pytest.fixture
def api(writer: Engine, reader: Engine) -> Iterator[Api]:
    made = Api(writer, reader)
    yield made
    made.close()


@contextmanager
def served(api: Api, limits: Limits) -> Iterator[RunningListener]:
    with run_listener(api.app, limits, ("/healthz",)) as listener:
        yield listener


def blocking_app(released: threading.Event) -> ASGIApp:
    """Return an application that answers requests for `/slow` only when the event is set."""

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.to_thread(released.wait, 60)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    return app


def code(body: bytes) -> str:
    error: dict[str, str] = json.loads(body)["error"]
    return error["code"]


@contextmanager
def reader_notices_nothing(listener: RunningListener) -> Iterator[None]:
    """Send requests over one connection while the block runs; every response must come, and none may take seconds."""
    done, took_s = threading.Event(), list[float]()

    def read() -> None:
        with listener.connect() as connection:
            while not done.is_set():
                began = time.monotonic()
                connection.sendall(GET)
                if response(connection)[0] != 200:
                    return
                took_s.append(time.monotonic() - began)

    thread = threading.Thread(target=read)
    thread.start()
    wait_until(lambda: bool(took_s), "the reader reads")
    before = len(took_s)
    yield
    wait_until(lambda: len(took_s) > before, "the reader still reads")
    done.set()
    thread.join()
    assert sorted(took_s)[len(took_s) // 2] < 1


def test_an_endless_request_line_is_refused_while_others_read(api: Api) -> None:
    with served(api, PATIENT) as listener, reader_notices_nothing(listener), listener.connect(b"GET /") as connection:
        assert send_until_refused(connection, b"a" * 65536, ENDLESS) < ENDLESS
        assert read_until_closed(connection).startswith(b"HTTP/1.1 414 ")


def test_an_endless_header_is_refused_while_others_read(api: Api) -> None:
    with served(api, PATIENT) as listener, reader_notices_nothing(listener):
        with listener.connect(b"GET /healthz HTTP/1.1\r\nX: ") as connection:
            send_until_refused(connection, b"a" * 65536, ENDLESS)
            assert read_until_closed(connection).startswith(b"HTTP/1.1 431 ")
        with listener.connect(b"GET /healthz HTTP/1.1\r\n") as connection:
            send_until_refused(connection, b"X: short\r\n" * 5000, ENDLESS)
            assert read_until_closed(connection).startswith(b"HTTP/1.1 431 ")


def test_an_endless_head_behind_a_valid_request_is_refused(api: Api) -> None:
    with served(api, PATIENT) as listener, listener.connect(GET + b"GET /healthz HTTP/1.1\r\nX: ") as connection:
        send_until_refused(connection, b"a" * 65536, ENDLESS)


@pytest.mark.parametrize(
    ("request_bytes", "status", "name"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * (URL_BYTES_MAX - 1)), 404, "NOT_FOUND"),
        (b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * URL_BYTES_MAX), 414, "URI_TOO_LONG"),
        (b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * 70_000), 414, "URI_TOO_LONG"),
        (b"GET /?a=%s HTTP/1.1\r\nHost: h\r\n\r\n" % (b"a" * URL_BYTES_MAX), 414, "URI_TOO_LONG"),
        (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * (HEADERS_BYTES_MAX - 5)), 404, "NOT_FOUND"),
        (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * HEADERS_BYTES_MAX), 431, "HEADERS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\nX: %s\r\n\r\n" % (b"a" * 200_000), 431, "HEADERS_TOO_LARGE"),
        (b"GET / HTTP/1.1\r\n%s\r\n" % (b"X: aaaaa\r\n" * 4000), 431, "HEADERS_TOO_LARGE"),
    ],
    ids=["URL fits", "URL", "URL of 70 KB", "query", "header fits", "header", "header of 200 KB", "many headers"],
)
def test_a_url_or_headers_that_are_too_large_get_the_error_envelope(
    api: Api, request_bytes: bytes, status: int, name: str
) -> None:
    with served(api, PATIENT) as listener, listener.connect(request_bytes) as connection:
        found, _, body = response(connection)
        assert (found, code(body)) == (status, name)


def test_a_half_sent_request_is_answered_408_even_if_bytes_keep_coming(api: Api) -> None:
    with served(api, HASTY) as listener, listener.connect(b"GET /a") as silent, listener.connect(b"GET /") as dripping:
        deadline = time.monotonic() + 20
        while not is_readable(dripping):
            assert time.monotonic() < deadline, "the server waits for ever"
            dripping.sendall(b"a")
            time.sleep(0.01)
        for connection in (silent, dripping):
            status, head, body = response(connection)
            assert (status, code(body)) == (408, "REQUEST_TIMEOUT")
            assert b"connection: close" in head


def test_a_silent_connection_is_closed_and_an_idle_one_stays(api: Api) -> None:
    with served(api, HASTY) as listener, listener.connect(GET) as idle, listener.connect() as silent:
        assert response(idle)[0] == 200
        assert read_until_closed(silent) == b""
        idle.sendall(GET)
        assert response(idle)[0] == 200


def test_an_idle_connection_is_closed_after_the_keep_alive_time(api: Api) -> None:
    with served(api, Limits(connections_max=50, keep_alive_s=1)) as listener, listener.connect(GET) as idle:
        assert response(idle)[0] == 200
        assert read_until_closed(idle) == b""


def test_a_client_that_never_reads_its_responses_is_closed(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    with served(api, HASTY) as listener, listener.connect() as connection:
        connection.settimeout(0.05)

        def send() -> bool:
            try:
                connection.send(b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
            except TimeoutError:
                return False
            except ConnectionError:
                return True
            return False

        wait_until(send, "the connection is reset", 30)
        wait_until(lambda: listener.open_connections == 0, "the connection is closed")
    assert caplog.messages == []


def test_requests_that_are_sent_ahead_wait_outside_the_process(writer: Engine) -> None:
    """uvicorn queues them without a limit: one connection with 94,000 of them delayed all others."""
    released = threading.Event()
    sent = 0
    with run_listener(blocking_app(released), PATIENT) as listener, listener.connect(SLOW) as connection:
        wait_until(lambda: listener.answering == 1, "the first request is being answered")
        connection.settimeout(0.5)
        with suppress(TimeoutError):
            while sent < ENDLESS:
                sent += connection.send(SLOW * 1000)
        released.set()
        assert sent < ENDLESS
        connection.settimeout(20)
        for _ in range(100):
            assert response(connection)[0] == 200


def test_at_the_limit_the_connection_that_has_waited_longest_is_closed(api: Api) -> None:
    with served(api, Limits(connections_max=3)) as listener, ExitStack() as stack:
        first, second, third = (stack.enter_context(listener.connect(GET)) for _ in range(3))
        for connection in (first, second, third):
            assert response(connection)[0] == 200
        first.sendall(GET)  # now the second has waited longest
        assert response(first)[0] == 200
        fourth = stack.enter_context(listener.connect(GET))
        assert response(fourth)[0] == 200
        wait_until(lambda: is_closed(second), "the connection is closed")
        for connection in (third, first, fourth):
            connection.sendall(GET)
            assert response(connection)[0] == 200


def test_an_idle_connection_of_a_reader_outlives_a_flood_of_silent_ones(api: Api) -> None:
    with served(api, Limits(connections_max=5)) as listener, listener.connect(GET) as idle, ExitStack() as stack:
        assert response(idle)[0] == 200
        for number in range(50):
            stack.enter_context(listener.connect(GET[: number % 2]))
        with listener.connect(GET) as later:
            assert response(later)[0] == 200
        idle.sendall(GET)
        assert response(idle)[0] == 200


def test_when_every_connection_is_being_answered_health_still_is(writer: Engine) -> None:
    released = threading.Event()
    limits = Limits(connections_max=2, reserved=2)
    with run_listener(blocking_app(released), limits, ("/healthz",)) as listener, ExitStack() as stack:
        busy = [stack.enter_context(listener.connect(SLOW)) for _ in range(2)]
        wait_until(lambda: listener.answering == 2, "both requests are being answered")
        status, head, _ = response(stack.enter_context(listener.connect(GET)))
        assert (status, b"connection: close" in head) == (200, True)
        status, head, body = response(stack.enter_context(listener.connect(SLOW)))
        assert (status, code(body), b"retry-after: 1" in head) == (503, "UNAVAILABLE", True)
        released.set()
        assert [response(connection)[0] for connection in busy] == [200, 200]


def test_a_client_that_half_closes_its_connection_gets_all_its_responses(api: Api) -> None:
    key = api.key("ten_acme")
    read = b"GET /v1/config/projects/a/stats HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s\r\n\r\n" % key.encode()
    with served(api, PATIENT) as listener, ExitStack() as stack:
        for _ in range(20):
            connection = stack.enter_context(listener.connect(read + GET + read))
            connection.shutdown(socket.SHUT_WR)
            assert re.findall(rb"HTTP/1.1 (\d+)", read_until_closed(connection)) == [b"404", b"200", b"404"]


def test_space_after_the_key_is_ignored(api: Api) -> None:
    key = api.key("ten_acme")
    read = b"GET /v1/config/projects/a/stats HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer %s \t \r\n\r\n" % key.encode()
    with served(api, PATIENT) as listener, listener.connect(read) as connection:
        assert response(connection)[0] == 404  # no such project


@pytest.mark.parametrize("size", [10, 50_000, 2 * DISCARDED_BYTES_MAX])
def test_a_request_with_a_body_is_answered_and_its_connection_closed(api: Api, size: int) -> None:
    head = b"POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size
    with served(api, PATIENT) as listener, listener.connect(head) as connection:
        status, answered, _ = response(connection)
        assert (status, b"connection: close" in answered) == (405, True)
        with listener.connect(head + b"a" * min(size, 50_000)) as together:
            assert response(together)[0] == 405


def test_http_1_0_and_requests_in_small_pieces_are_answered(api: Api) -> None:
    with served(api, PATIENT) as listener:
        with listener.connect(b"GET /healthz HTTP/1.0\r\n\r\n") as connection:
            assert read_until_closed(connection).endswith(b'{"status":"ok"}')
        with listener.connect() as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(2):
                for byte in GET:
                    connection.sendall(bytes([byte]))
                assert response(connection)[0] == 200


def test_a_flood_of_connections_makes_one_log_line(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOG_EVERY_S", 0.5)
    limits = Limits(connections_max=5)
    with structlog.testing.capture_logs() as logged, served(api, limits) as listener, ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(listener.connect())
        wait_until(lambda: total(logged) == 45, "the closed connections are logged")
    assert len(logged) <= 3


def total(logged: Any) -> int:
    return sum(line["reasons"].get("limit_of_connections", 0) for line in logged)
