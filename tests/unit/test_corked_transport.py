"""A response is sent to the kernel in one write, over real connections."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from api_stub.serving.corked_transport import CorkedTransport

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Counting(asyncio.Transport):
    """A transport that counts the writes that it passes to the real one."""

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self.transport = transport
        self.sent: list[bytes] = []

    def writelines(self, pieces: Any) -> None:
        self.sent.append(b"".join(pieces))
        self.transport.write(self.sent[-1])

    def close(self) -> None:
        self.transport.close()

    def is_closing(self) -> bool:
        return self.transport.is_closing()


async def exchange(says: Callable[[CorkedTransport], None]) -> tuple[list[bytes], bytes]:
    """Return the writes of a server that `says` something, and what its client received."""
    made: list[Counting] = []

    class Server(asyncio.Protocol):
        def connection_made(self, transport: Any) -> None:
            made.append(Counting(transport))
            says(CorkedTransport(made[0]))

    server = await asyncio.get_running_loop().create_server(Server, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        got = await reader.read()
        writer.close()
        await writer.wait_closed()
    return made[0].sent, got


async def test_writes_of_one_event_loop_turn_are_sent_together() -> None:
    def says(transport: CorkedTransport) -> None:
        transport.write(b"head")
        transport.write(b"body")
        asyncio.get_running_loop().call_later(0.01, transport.close)

    assert await exchange(says) == ([b"headbody"], b"headbody")


async def test_closing_sends_earlier_writes() -> None:
    def says(transport: CorkedTransport) -> None:
        transport.write(b"all of it")
        transport.close()

    assert await exchange(says) == ([b"all of it"], b"all of it")


async def test_writes_of_later_turns_are_sent_separately() -> None:
    def says(transport: CorkedTransport) -> None:
        transport.write(b"one")
        loop = asyncio.get_running_loop()
        loop.call_later(0.01, transport.write, b"two")
        loop.call_later(0.02, transport.close)

    assert await exchange(says) == ([b"one", b"two"], b"onetwo")


async def test_nothing_is_sent_to_a_disconnected_client() -> None:
    class Gone(Counting):
        def is_closing(self) -> bool:
            return True

    sent = Gone(asyncio.Transport())
    CorkedTransport(sent).write(b"too late")
    await asyncio.sleep(0.01)
    assert sent.sent == []
