"""`Stream`: the Redis streams of a deployment, to append to, read from, wait for and trim."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from redis import Redis
from redis.exceptions import OutOfMemoryError

from event_stream.errors import EventStreamError
from event_stream.streams.appending import Appended, append_bodies
from event_stream.streams.ends import EndReader
from event_stream.streams.entries import START, Entry, Position, StreamEnd, StreamSlice
from event_stream.streams.entry_digest import DIGEST_LUA
from event_stream.streams.reading import iter_body, position_after, read_slice
from event_stream.streams.stream_keys import PARTITIONS_KEY, projected_count_key, projected_key, stream_key
from event_stream.streams.waiting import wait_for_streams

READ_BYTES_MAX = 8 * 1024 * 1024

# One script, because the stream could be replaced between the comparison and the trim.
_TRIM = (
    DIGEST_LUA
    + """
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return 0 end
local found = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if not found or digest(found[2]) ~= ARGV[3] then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '~', ARGV[1])
"""
)


class PartitionsMismatchError(EventStreamError):
    """The deployment was created with another number of partitions."""

    def __init__(self, stored: int, configured: int, source: str) -> None:
        super().__init__(
            f"PROJECTOR_PARTITIONS is {configured}, but this deployment was created with {stored} (stored in {source});"
            f" set PROJECTOR_PARTITIONS={stored}"
        )


class NotAStreamError(EventStreamError):
    """The key of a partition's stream holds something else, so the partition can be neither appended to nor read."""

    def __init__(self, partition: int) -> None:
        key = stream_key(partition)
        super().__init__(
            f"the key {key} in Redis is not a stream; restore the stream with redis-cli RENAME <its name now> '{key}',"
            " or, if there is no stream any more, rename that key"
        )


@dataclass(frozen=True, slots=True)
class ProjectedPosition:
    """How far a partition is projected: the last projected position, and the entries ever added up to it."""

    position: Position
    entries: int


class Stream:
    """The P streams of one deployment. Errors of redis-py pass through."""

    def __init__(self, redis: Redis, partitions: int) -> None:
        self.redis = redis
        self.partitions = partitions
        self._trim = redis.register_script(_TRIM)
        self._ends = EndReader(redis)

    def check_partitions(self) -> None:
        """Raise PartitionsMismatchError if Redis holds another number of partitions; it may hold none yet."""
        stored: Any = self.redis.get(PARTITIONS_KEY)
        if stored is not None and int(stored) != self.partitions:
            raise PartitionsMismatchError(int(stored), self.partitions, f"Redis, key {PARTITIONS_KEY}")

    def announce_partitions(self) -> None:
        """Store the number of partitions for producers; raises PartitionsMismatchError if another one is stored."""
        with suppress(OutOfMemoryError):  # a full Redis must still be drained, and producers cannot append to it anyway
            self.redis.set(PARTITIONS_KEY, self.partitions, nx=True)
        self.check_partitions()

    def append(self, bodies: Sequence[tuple[int, bytes]]) -> list[Appended]:
        """Append (partition, body) pairs in order and return the position of each; see `append_bodies`."""
        return append_bodies(self.redis, bodies)

    def read_after(
        self,
        partition: int,
        position: Position,
        count: int,
        extra_position: Position = START,
        bytes_max: int = READ_BYTES_MAX,
    ) -> StreamSlice:
        """Return the entries after `position`, at most `count` and `bytes_max` but at least one, as one snapshot.

        The slice also has the stream's end, and the digest of the entry at `extra_position`.
        """
        return read_slice(self.redis, partition, position, extra_position, count, bytes_max)

    def position_after(self, partition: int, position: Position, number: int = 1) -> Position | None:
        """Return the position that is `number` entries after a position, or the last one; None if none is after it."""
        return position_after(self.redis, partition, position, number)

    def iter_body(self, partition: int, entry: Entry) -> Iterator[bytes]:
        """Yield the body of a large entry in chunks; see `reading.iter_body`."""
        return iter_body(self.redis, partition, entry)

    def ends(self) -> list[StreamEnd]:
        """Return the end of every stream, by partition."""
        return self._ends.read(range(self.partitions))

    def end(self, partition: int) -> StreamEnd:
        """Return the end of one stream."""
        return self._ends.read([partition])[0]

    def wait_for_more(self, ends: Mapping[int, StreamEnd], timeout_s: float) -> list[int]:
        """Wait until some streams have entries after their ends; return their partitions, or none after the timeout."""
        after = {stream_key(partition): str(end.position or START) for partition, end in ends.items()}
        grown = wait_for_streams(self.redis, after, timeout_s)
        return [partition for partition in ends if stream_key(partition).encode() in grown]

    def trim(self, partition: int, before: Position, known: Position, digest: bytes) -> int:
        """Remove entries older than `before` and return how many were removed; Redis may leave a few.

        Nothing is removed unless the entry at `known` has this digest, which proves that the stream was not replaced.
        """
        trim = partial(self._trim, [stream_key(partition)], [str(before), str(known), digest.hex()])
        # One XTRIM removes at most 100 nodes, about 10,000 entries, but a busy stream grows faster than that.
        return sum(int(removed) for removed in iter(trim, 0))

    def publish_projected(self, partition: int, progress: ProjectedPosition, pipe: Redis | None = None) -> None:
        """Store how far a partition is projected, for waiting producers; with `pipe`, as part of that pipeline."""
        (self.redis if pipe is None else pipe).mset(
            {projected_key(partition): str(progress.position), projected_count_key(partition): progress.entries}
        )

    def projected(self, partitions: Iterable[int]) -> dict[int, ProjectedPosition]:
        """Return how far each of `partitions` is projected, as far as Redis knows."""
        requested = list(partitions)
        keys = [key(partition) for partition in requested for key in (projected_key, projected_count_key)]
        values = self.redis.mget(keys) if keys else []
        hints = zip(values[::2], values[1::2], strict=True)
        return {partition: _projected_position(*hint) for partition, hint in zip(requested, hints, strict=True)}

    def now_ms(self) -> int:
        """Return the time of the server's clock, which also makes entry ids, in milliseconds since 1970."""
        seconds, microseconds = self.redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000


def _projected_position(position: Any, entries: Any) -> ProjectedPosition:
    return ProjectedPosition(Position.parse(position) if position else START, int(entries or 0))
