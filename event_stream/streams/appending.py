"""Append events to streams in one round trip (docs/decisions/0013-append-in-transactions.md).

The commands are written to the socket directly: redis-py's pipeline takes three times as long for each XADD.
"""

from collections.abc import Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from redis import Redis

from event_stream.streams.entries import EVENT_FIELD, Position
from event_stream.streams.raw_reply import connection_of
from event_stream.streams.scripts import raise_if_error
from event_stream.streams.stream_keys import stream_key

_TRANSACTION_BYTES_MIN = 8_192
_TRANSACTION_BYTES_MAX = 65_536
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"


class Appended(NamedTuple):
    """The partition and position of an appended event; as text `<partition>-<ms>-<seq>`.

    docs/reference/producer.md#positions
    """

    partition: int
    position: Position

    def __str__(self) -> str:
        return f"{self.partition}-{self.position}"


def append_bodies(redis: Redis, bodies: Sequence[tuple[int, bytes]]) -> list[Appended]:
    """Append (partition, body) pairs in order, in one round trip, and return the position of each.

    Raises the first error. Entries before and after it may have been appended; appending them again is harmless, since
    they become duplicates.
    """
    with connection_of(redis) as connection:
        send = partial(_send_and_receive, connection, bodies)
        appended: list[Appended] = connection.retry.call_with_retry(send, lambda _: connection.disconnect())
    return appended


def _send_and_receive(connection: Any, bodies: Sequence[tuple[int, bytes]]) -> list[Appended]:
    transactions = list(_transactions(bodies))
    # The socket's timeout applies to each send, so a slow link may take its time, but must not stall.
    connection.send_packed_command(map(_pack, transactions))
    return [appended for transaction in transactions for appended in _receive(connection, transaction)]


def _transactions(bodies: Sequence[tuple[int, bytes]]) -> Iterator[Sequence[tuple[int, bytes]]]:
    """Split the bodies into MULTI transactions, because a Redis that syncs every write syncs a MULTI once.

    The first one is small, so that Redis begins at once. None is large, because Redis serves no other client during it.
    """
    first = size = 0
    size_max = _TRANSACTION_BYTES_MIN
    for end, (_, body) in enumerate(bodies, start=1):
        size += len(body)
        if size >= size_max or end == len(bodies):
            yield bodies[first:end]
            first, size, size_max = end, 0, min(size_max * 2, _TRANSACTION_BYTES_MAX)


def _pack(transaction: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join([_MULTI, *(_pack_xadd(partition, body) for partition, body in transaction), _EXEC])


def _pack_xadd(partition: int, body: bytes) -> bytes:
    """Return `XADD events:{p} * event <body>` in Redis's protocol: the number of parts, each with its length."""
    return b"%b$%d\r\n%b\r\n" % (_pack_xadd_start(partition), len(body), body)


@cache
def _pack_xadd_start(partition: int) -> bytes:
    parts = [b"XADD", stream_key(partition).encode(), b"*", EVENT_FIELD]
    return b"*%d\r\n" % (len(parts) + 1) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _receive(connection: Any, transaction: Sequence[tuple[int, bytes]]) -> list[Appended]:
    """Read the replies to a transaction: one to MULTI and to each XADD, then one to EXEC with all ids."""
    for _ in range(len(transaction) + 1):
        connection.read_response()
    ids = connection.read_response()
    return [
        Appended(partition, Position.parse(raise_if_error(entry_id)))
        for (partition, _), entry_id in zip(transaction, ids, strict=True)
    ]
