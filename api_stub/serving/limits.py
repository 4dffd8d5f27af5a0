"""The limits on connections and requests (docs/reference/api.md#limits)."""

import resource
import sys
from dataclasses import dataclass

DISCARDED_BYTES_MAX = 1024 * 1024

CONNECTIONS_MAX = 10_000
# Files that are no connections of readers: databases, Redis, RESERVED_CONNECTIONS, and connections about to be closed.
OTHER_FILES = 124
RESERVED_CONNECTIONS = 32


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections a listener may have, and how long each may wait.

    `reserved` more connections are accepted for the health endpoints when all others are being answered.
    """

    connections_max: int
    keep_alive_s: int = 75
    reserved: int = RESERVED_CONNECTIONS
    first_byte_s: float = 10.0
    head_s: float = 10.0
    unread_s: float = 10.0


def connections_allowed() -> int:
    """Return how many connections the limit on open files (`ulimit -n`) allows."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if files == resource.RLIM_INFINITY else max(1, files - OTHER_FILES)
