"""The sources of dead letters: who sent them, in each partition and minute of the last ten, counted in Redis.

Keys:

    projector:dead-letter-sources:{p}  hash  `<minute> <source>`: entries of that source that became dead letters in
                                             partition p; expires

The numbers are approximate: a crash may leave a batch out, and in one minute only FIELDS_MAX sources are counted by
name. The others are counted as a source without a name.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field
from redis import Redis

MINUTES = 10
FIELDS_MAX = 500  # of one partition
SOURCES_SHOWN = 10
REPORTED_ABOVE = 100
_COUNT = """
local minute = math.floor(redis.call('TIME')[1] / 60)
local oldest, fields = minute - ARGV[1], 0
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    if tonumber(string.match(name, '^%d+')) < oldest then redis.call('HDEL', KEYS[1], name) else fields = fields + 1 end
end
for index = 3, #ARGV, 2 do
    local name = minute .. ' ' .. ARGV[index]
    if redis.call('HEXISTS', KEYS[1], name) == 0 then
        if fields >= tonumber(ARGV[2]) then name = minute .. ' ' else fields = fields + 1 end
    end
    redis.call('HINCRBY', KEYS[1], name, ARGV[index + 1])
end
redis.call('EXPIRE', KEYS[1], ARGV[1] * 60 + 60)
"""


class DeadLetterSource(BaseModel):
    """A source whose entries became dead letters."""

    partition: int = Field(description="Partition that the entries are in.")
    source: str | None = Field(description="`source` of the entries; null for entries without a valid one.")
    entries: int = Field(description="Entries that became dead letters in the last ten minutes.")

    @property
    def is_reported(self) -> bool:
        """Whether they are so many that health and an alert name the source."""
        return self.entries > REPORTED_ABOVE


def count_sources(pipe: Redis, partition: int, sources: Iterable[str | None]) -> None:
    """Count the source of each dead letter of a batch, in a pipeline that the caller executes."""
    counted = Counter(source or "" for source in sources).most_common(FIELDS_MAX)
    if counted:
        pairs = [str(each) for pair in counted for each in pair]
        pipe.eval(_COUNT, 1, _key(partition), str(MINUTES), str(FIELDS_MAX), *pairs)


def read_sources(redis: Redis, partitions: int, now_ms: int) -> list[DeadLetterSource]:
    """Return the sources with the most dead letters at `now_ms` of Redis's clock, at most SOURCES_SHOWN."""
    with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.hgetall(_key(partition))
        hashes: list[Any] = pipe.execute()
    now, counts = now_ms // 60_000, Counter[tuple[int, str]]()
    for partition, stored in enumerate(hashes):
        for name, entries in stored.items():
            minute, _, source = name.decode().partition(" ")
            if now - MINUTES < int(minute) <= now:
                counts[partition, source] += int(entries)
    return [
        DeadLetterSource(partition=partition, source=source or None, entries=entries)
        for (partition, source), entries in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
    ][:SOURCES_SHOWN]


def _key(partition: int) -> str:
    return f"projector:dead-letter-sources:{{{partition}}}"
