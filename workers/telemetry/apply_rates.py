"""Throughput of each partition: the events applied in each 10 s of the last ten minutes, counted in Redis.

Keys:

    projector:applied-per-10s:{p}  hash  `<n>`: events of partition p applied in the n-th 10 s since 1970, for the last
                                         ten minutes; `last`: the newest n; expires

All processes count by Redis's clock. The numbers are approximate: a crash may leave a batch out, and a Redis that lost
its data starts from zero.
"""

from typing import Any

from pydantic import BaseModel, Field
from redis import Redis

BUCKET_S = 10
BUCKET_COUNT = 60
HISTORY_S = BUCKET_S * BUCKET_COUNT
_MINUTE = 6  # buckets
# A bucket newer than the current one means that Redis's clock was set back: start over with no buckets.
_COUNT = """
local bucket = math.floor(redis.call('TIME')[1] / ARGV[2])
local last = tonumber(redis.call('HGET', KEYS[1], 'last'))
if last and last > bucket then redis.call('DEL', KEYS[1]) end
redis.call('HINCRBY', KEYS[1], bucket, ARGV[1])
if last ~= bucket then
    redis.call('HSET', KEYS[1], 'last', bucket)
    redis.call('EXPIRE', KEYS[1], ARGV[2] * (ARGV[3] + 1))
    for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
        if name ~= 'last' and tonumber(name) < bucket - ARGV[3] then redis.call('HDEL', KEYS[1], name) end
    end
end
"""


class Rate(BaseModel):
    """The throughput of one partition."""

    partition: int = Field(description="Partition number.")
    events_per_s: float = Field(description="Events applied per second in the last minute.")
    events_last_10_min: int = Field(description="Events applied in the last ten minutes.")
    history: list[int] = Field(
        description="Events applied in each complete 10 s of the last ten minutes, oldest first."
    )


def count_applied(pipe: Redis, partition: int, applied: int) -> None:
    """Count events that are applied now, in a pipeline that the caller executes."""
    # EVAL, because EVALSHA would need another round trip to ensure that Redis has the script.
    pipe.eval(_COUNT, 1, _key(partition), str(applied), str(BUCKET_S), str(BUCKET_COUNT))


def read_rates(redis: Redis, partitions: int, now_ms: int) -> list[Rate]:
    """Return the throughput of each partition at `now_ms` of Redis's clock, in one round trip."""
    with redis.pipeline(transaction=False) as pipe:
        for partition in range(partitions):
            pipe.hgetall(_key(partition))
        hashes: list[Any] = pipe.execute()
    return [_rate(partition, stored, now_ms) for partition, stored in enumerate(hashes)]


def _rate(partition: int, stored: dict[bytes, bytes], now_ms: int) -> Rate:
    now = now_ms // (BUCKET_S * 1000)
    set_back = int(stored.get(b"last", 0)) > now
    counts = [0 if set_back else int(stored.get(b"%d" % bucket, 0)) for bucket in range(now - BUCKET_COUNT, now + 1)]
    minute_s = (_MINUTE - 1) * BUCKET_S + now_ms / 1000 % BUCKET_S
    return Rate(
        partition=partition,
        events_per_s=round(sum(counts[-_MINUTE:]) / minute_s, 3),
        events_last_10_min=sum(counts),
        history=counts[:-1],
    )


def _key(partition: int) -> str:
    return f"projector:applied-per-10s:{{{partition}}}"
