"""The ports that `projector up` chooses for its embedded servers: never those of its own API."""

import random
import socket
from pathlib import Path

import pytest

from cli.local import startup
from cli.local.ports import free_port
from tests.support import servers


@pytest.fixture
def three_ports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The only available ports, tried in this order."""
    ports = [servers.free_port() for _ in range(3)]
    monkeypatch.setattr(random, "sample", lambda *_: ports)
    return ports


def test_a_port_in_use_or_reserved_is_not_chosen(three_ports: list[int]) -> None:
    first, second, third = three_ports
    assert free_port("127.0.0.1") == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        assert free_port("127.0.0.1") == second
        assert free_port("127.0.0.1", exclude=[second]) == third
        with pytest.raises(OSError, match="found no free port"):
            free_port("127.0.0.1", exclude=[second, third])


def test_the_embedded_server_avoids_the_ports_of_the_api(
    three_ports: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PORT", str(three_ports[0]))
    monkeypatch.setenv("OPS_PORT", "0")
    environ, valkey = startup.prepare_environ(tmp_path)
    assert valkey is not None
    assert [int(environ["PORT"]), int(environ["OPS_PORT"]), valkey.port] == three_ports
