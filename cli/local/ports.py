"""Ports of this machine: which are free, and the URL of an address."""

import errno
import random
import socket
from collections.abc import Collection

from cli.output import CliError

PORTS = range(10_000, 30_000)  # below the ports for outgoing connections, which start at 32768 on Linux
ATTEMPTS = 100


def free_port(host: str, exclude: Collection[int] = ()) -> int:
    """Return a port of `host` that nothing listens on, and that is not in `exclude`. Raises OSError if none is found.

    Ports for outgoing connections are never chosen: such a connection could take the port before its server starts.
    """
    for port in random.sample(PORTS, ATTEMPTS):
        if port not in exclude and is_free(host, port):
            return port
    raise OSError(errno.EADDRINUSE, f"found no free port on {host}")


def is_free(host: str, port: int) -> bool:
    """Return whether nothing listens on a port of `host`. Raises OSError if this machine does not have that address."""
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return False
    return True


def check_free(address: tuple[str, int]) -> None:
    """Raise CliError unless this process can listen on an address."""
    host, port = address
    try:
        family, kind, protocol, _, socket_address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(socket_address)
    except OSError as error:
        raise CliError(
            f"cannot listen on {host}:{port} ({error.strerror}); set HOST, PORT, OPS_HOST or OPS_PORT"
        ) from None


def http_url(address: tuple[str, int]) -> str:
    """Return the HTTP URL of an address; IPv6 hosts get their brackets."""
    host, port = address
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
