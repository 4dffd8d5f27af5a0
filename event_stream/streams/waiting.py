"""Wait for new entries without receiving them.

XREAD is the only command that waits for entries, and its reply holds them whole. Of a large entry only the beginning
is received; then the connection is closed: docs/decisions/0047-never-transfer-an-entry-of-unknown-size.md
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from redis import Redis

from event_stream.streams.raw_reply import RawReply, connection_of

VALUE_BYTES_MAX = 65_536


def wait_for_streams(redis: Redis, after: Mapping[str, str], timeout_s: float) -> set[bytes]:
    """Wait until a stream has an entry after its given id; return the keys of streams that have.

    After a large entry, other streams that have one may be missing in the result.
    """
    with connection_of(redis) as connection:
        read = partial(_read, connection, after, timeout_s)
        found: set[bytes] = connection.retry.call_with_retry(read, lambda _: connection.disconnect())
    return found & {key.encode() for key in after}


def _read(connection: Any, after: Mapping[str, str], timeout_s: float) -> set[bytes]:
    """Return the short values in the reply to XREAD, among them the keys."""
    block_ms = max(1, int(timeout_s * 1000))
    connection.send_command("XREAD", "COUNT", 1, "BLOCK", block_ms, "STREAMS", *after, *after.values())
    reply, values, left = RawReply(connection), set[bytes](), 1
    while left:
        kind, text = reply.head()
        left -= 1
        match kind:
            case b"*":
                left += max(0, int(text))
            case b"%":
                left += 2 * int(text)
            case b">":  # a notification, which precedes the reply
                left += int(text) + 1
            case b"$" if int(text) > VALUE_BYTES_MAX:
                connection.disconnect()
                break
            case b"$" if int(text) >= 0:
                values.add(b"".join(reply.iter_value(int(text))))
    return values
