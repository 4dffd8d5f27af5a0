"""The streams in Redis: partitions, and the only code that knows the stream's Redis commands.

Keys, all bytes and all on the streams' server (the braces are literal: a Redis Cluster hash tag):

    events:{p}                  stream  one entry per event, with its JSON in the field `event`
    events:{p}:projected        string  the last projected position, `<ms>-<seq>`: a hint for producers that wait
    events:{p}:projected-count  string  the stream's `entries-added` at that position: a hint for the backlog limit
    events:partitions           string  the number of partitions, written by the processes that drain
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any, NamedTuple

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError, ResponseError

from event_stream.entries import EVENT_FIELD, START, Entry, Position, StreamEnd, StreamSlice
from event_stream.errors import EventStreamError

PARTITIONS_KEY = "events:partitions"
_TRANSACTION_BYTES_MIN = 8_192
_TRANSACTION_BYTES_MAX = 65_536
_MULTI = b"*1\r\n$5\r\nMULTI\r\n"
_EXEC = b"*1\r\n$4\r\nEXEC\r\n"

# Looks and trims in one step: whoever slept between the two would trim a stream that was put in this one's place.
_TRIM = """
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if not found or #found[2] ~= #ARGV - 2 then return 0 end
for i, part in ipairs(found[2]) do
    if part ~= ARGV[i + 2] then return 0 end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[1])
"""


class PartitionsMismatchError(EventStreamError):
    """The deployment was made with another number of partitions."""

    def __init__(self, stored: int, configured: int, where: str) -> None:
        super().__init__(
            f"PROJECTOR_PARTITIONS is {configured}, but this deployment was made with {stored} (stored in {where});"
            f" set PROJECTOR_PARTITIONS={stored}"
        )


class OldServerError(EventStreamError):
    """The server does not count what was ever added to a stream, so what it loses could not be told."""

    def __init__(self) -> None:
        super().__init__("this Redis is too old to count the entries ever added; use Redis 7.0 or Valkey 8, or newer")


class NotAStreamError(EventStreamError):
    """Something else lies where a partition's stream should be; nothing can be appended there, nor read."""

    def __init__(self, partition: int) -> None:
        key = stream_key(partition)
        super().__init__(
            f"the key {key} in Redis holds no stream; put the stream back, redis-cli RENAME <its name> '{key}',"
            " or if there is none any more, move that key away"
        )


class Appended(NamedTuple):
    """Where an event was appended; as text `<partition>-<ms>-<seq>` (docs/reference/producer.md#positions)."""

    partition: int
    position: Position

    def __str__(self) -> str:
        return f"{self.partition}-{self.position}"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition is projected, as the hint says: position, and entries added up to it."""

    position: Position
    entries: int


class Stream:
    """The P streams of one deployment. Redis's own errors pass through."""

    def __init__(self, redis: Redis, partitions: int) -> None:
        self.redis = redis
        self.partitions = partitions
        self._trim = redis.register_script(_TRIM)
        self._callbacks = {**redis.response_callbacks, "XRANGE": _entries}

    def check_partitions(self) -> None:
        """Raise PartitionsMismatchError if another number of partitions is announced; none yet is fine."""
        stored: Any = self.redis.get(PARTITIONS_KEY)
        if stored is not None and int(stored) != self.partitions:
            raise PartitionsMismatchError(int(stored), self.partitions, f"Redis, key {PARTITIONS_KEY}")

    def announce_partitions(self) -> None:
        """Tell producers the number of partitions; raises PartitionsMismatchError if another one was announced."""
        with suppress(OutOfMemoryError):  # a full Redis takes nothing from producers either, and must be drained
            self.redis.set(PARTITIONS_KEY, self.partitions, nx=True)
        self.check_partitions()

    def append(self, bodies: Sequence[tuple[int, bytes]]) -> list[Appended]:
        """Append (partition, body) pairs in order, in one round trip; returns where each went.

        Raises the first error; the entries before and after it may have been appended (a retry is harmless: the
        event's identity absorbs it).
        """
        pool = self.redis.connection_pool
        connection: Any = pool.get_connection()
        try:
            send = partial(_append_all, connection, bodies)
            appended: list[Appended] = connection.retry.call_with_retry(send, lambda _: connection.disconnect())
        except BaseException:
            connection.disconnect()  # whoever came next on it would read the answers that nobody read
            raise
        finally:
            pool.release(connection)
        return appended

    def read_from(self, partition: int, position: Position, count: int, other: Position = START) -> StreamSlice:
        """Return at most `count` entries from `position` on, inclusive, with the stream's end, as one snapshot.

        With them comes the entry at `other`, if there is one.
        """
        try:
            return _reading(self._pipeline(transaction=True), partition, position, count, other)
        except OutOfMemoryError:
            # A full Redis 7 takes no MULTI, not even one that only reads; but then it takes no entry either.
            return _reading(self._pipeline(transaction=False), partition, position, count, other)

    def _pipeline(self, *, transaction: bool) -> Pipeline:
        return Pipeline(self.redis.connection_pool, self._callbacks, transaction, None)

    def ends(self) -> list[StreamEnd]:
        """Return the end of every stream, by partition; a stream that is not there has no position."""
        return self._ends(range(self.partitions))

    def end(self, partition: int) -> StreamEnd:
        """Return the end of one stream, as `ends` does."""
        return self._ends([partition])[0]

    def _ends(self, partitions: Iterable[int]) -> list[StreamEnd]:
        pipe = self.redis.pipeline(transaction=False)
        for partition in partitions:
            pipe.xinfo_stream(stream_key(partition))
        return [_end(info) for info in pipe.execute(raise_on_error=False)]

    def wait_for_more(self, ends: Mapping[int, StreamEnd], timeout_s: float) -> list[int]:
        """Return the partitions whose streams moved past their `ends`, as soon as one does; none after `timeout_s`."""
        after = {stream_key(partition): str(end.position or START) for partition, end in ends.items()}
        moved: Any = self.redis.xread(after, count=1, block=max(1, int(timeout_s * 1000)))  # type: ignore[arg-type]
        entries = dict(moved or ())
        return [partition for partition in ends if stream_key(partition).encode() in entries]

    def trim(self, partition: int, before: Position, beside: Entry) -> int:
        """Remove entries older than `before` (a few may stay) from the stream that holds the entry `beside`.

        Returns how many went; none from a stream that does not hold this very entry.
        """
        parts = [part for pair in beside.fields.items() for part in pair]
        trim = partial(self._trim, [stream_key(partition)], [str(before), str(beside.position), *parts])
        # Redis removes at most 100 nodes at once, about 10,000 entries; a busy stream grows faster than that.
        return sum(int(removed) for removed in iter(trim, 0))

    def publish_projected(self, partition: int, progress: Progress, pipe: Redis | None = None) -> None:
        """Tell producers that wait how far a partition is projected; with `pipe`, once that is executed."""
        (self.redis if pipe is None else pipe).mset(
            {projected_key(partition): str(progress.position), read_key(partition): progress.entries}
        )

    def projected(self, partitions: Iterable[int]) -> dict[int, Progress]:
        """Return the hint of each of `partitions`; a partition without one has projected nothing yet."""
        wanted = list(partitions)
        keys = [key(partition) for partition in wanted for key in (projected_key, read_key)]
        values = self.redis.mget(keys) if keys else []
        hints = zip(values[::2], values[1::2], strict=True)
        return {partition: _progress(*hint) for partition, hint in zip(wanted, hints, strict=True)}

    def now_ms(self) -> int:
        """Return the server's clock, the one that entry ids are made of, in milliseconds since 1970."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


def stream_key(partition: int) -> str:
    """Return the key of a partition's stream."""
    return f"events:{{{partition}}}"


def projected_key(partition: int) -> str:
    """Return the key of a partition's projected hint."""
    return f"events:{{{partition}}}:projected"


def read_key(partition: int) -> str:
    """Return the key of a partition's count of entries read."""
    return f"events:{{{partition}}}:projected-count"


def _append_all(connection: Any, bodies: Sequence[tuple[int, bytes]]) -> list[Appended]:
    """Send all, then read all answers; without redis-py's pipeline, which takes three times as long over each XADD."""
    transactions = list(_transactions(bodies))
    # One by one, as a socket's timeout is for each: a slow link may take its time, but not stand still.
    connection.send_packed_command(map(_packed, transactions))
    return [appended for transaction in transactions for appended in _appended(connection, transaction)]


def _transactions(bodies: Sequence[tuple[int, bytes]]) -> Iterator[Sequence[tuple[int, bytes]]]:
    """Cut what is to be appended into MULTIs: a Redis that syncs every write syncs a MULTI once.

    Of plain XADDs it syncs as many as it reads at a time, 16 KiB. The first MULTI is no larger, so that Redis begins at
    once; and none is much larger, as nobody else is served while one is carried out.
    """
    first = size = 0
    size_max = _TRANSACTION_BYTES_MIN
    for at, (_, body) in enumerate(bodies, start=1):
        size += len(body)
        if size >= size_max or at == len(bodies):
            yield bodies[first:at]
            first, size, size_max = at, 0, min(size_max * 2, _TRANSACTION_BYTES_MAX)


def _packed(transaction: Sequence[tuple[int, bytes]]) -> bytes:
    return b"".join([_MULTI, *(_xadd(partition, body) for partition, body in transaction), _EXEC])


def _appended(connection: Any, transaction: Sequence[tuple[int, bytes]]) -> list[Appended]:
    """Read the answers to a transaction: one to MULTI and to each XADD, and one that holds all ids."""
    for _ in range(len(transaction) + 1):
        connection.read_response()
    ids = connection.read_response()
    return [
        Appended(partition, Position.parse(_raised(entry_id)))
        for (partition, _), entry_id in zip(transaction, ids, strict=True)
    ]


def _xadd(partition: int, body: bytes) -> bytes:
    """Return `XADD events:{p} * event <body>` as Redis reads it: how many parts, and each with its length."""
    return b"%b$%d\r\n%b\r\n" % (_xadd_but_body(partition), len(body), body)


@cache
def _xadd_but_body(partition: int) -> bytes:
    parts = [b"XADD", stream_key(partition).encode(), b"*", EVENT_FIELD]
    return b"*%d\r\n" % (len(parts) + 1) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def _reading(pipe: Pipeline, partition: int, position: Position, count: int, other: Position) -> StreamSlice:
    key = stream_key(partition)
    pipe.xinfo_stream(key)
    pipe.xrange(key, min=str(position), count=count)
    pipe.xrange(key, min=str(other), max=str(other))
    info, found, others = pipe.execute(raise_on_error=False)
    end = _end(info)
    if end.wrong_type:
        return StreamSlice([], end)
    return StreamSlice(_raised(found), end, other=next(iter(_raised(others)), None))


def _end(info: Any) -> StreamEnd:
    wrong_type = isinstance(info, ResponseError) and "WRONGTYPE" in str(info)
    if wrong_type or (isinstance(info, ResponseError) and "no such key" in str(info)):
        return StreamEnd(last=None, length=0, added=0, wrong_type=wrong_type)
    info = _raised(info)
    if "entries-added" not in info:
        raise OldServerError
    # The last entry that exists: `last-generated-id` would go on ringing for a tail that was deleted.
    last = info["last-entry"]
    return StreamEnd(_last(*last) if last else None, length=int(info["length"]), added=int(info["entries-added"]))


def _last(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    return Entry(entry_id, list(chain.from_iterable(fields.items())))


def _entries(answer: list[tuple[bytes, list[bytes]]], **_options: object) -> list[Entry]:
    """Return the entries of an XRANGE; redis-py would make a dict of each, which takes longer than reading it."""
    return [Entry(entry_id, parts) for entry_id, parts in answer]


def _progress(position: Any, entries: Any) -> Progress:
    return Progress(Position.parse(position) if position else START, int(entries or 0))


def _raised(answer: Any) -> Any:
    if isinstance(answer, Exception):
        raise answer
    return answer
