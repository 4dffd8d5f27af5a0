"""Finds streams whose keys look like a partition's and are not, so that nothing reads them.

Redis accepts `XADD events:5` without the braces, and `XADD events:{9}` for a partition that does not exist.
"""

import re
import time
from collections.abc import Iterable, Iterator
from typing import Any

from redis import Redis

from event_stream.streams.stream_keys import stream_key

SHOWN_MAX = 10
"""How many streams are reported; another program may have any number of such keys."""
_NUMBERS_TRIED = 64
_KEYS_AT_ONCE = 5_000
_LOOKS_LIKE_ONE = re.compile(r"\s*events?\s*:\s*[{(\[]?\s*-?\d+\s*[})\]]?\s*", re.IGNORECASE)


def find_likely(redis: Redis, partitions: int) -> dict[str, int]:
    """Return the entries in unread streams with the most likely keys, whatever the number of keys in Redis."""
    numbers = range(partitions + _NUMBERS_TRIED)
    return _streams_of(redis, partitions, [key for p in numbers for key in (f"events:{p}", stream_key(p))])


def find_all(redis: Redis, partitions: int, deadline_s: float) -> dict[str, int]:
    """Return the entries in unread streams, of the keys that SCAN returns until `deadline_s` on the monotonic clock."""
    found = find_likely(redis, partitions) | _streams_of(redis, partitions, _scan(redis, deadline_s))
    return dict(sorted(found.items())[:SHOWN_MAX])


def _scan(redis: Any, deadline_s: float) -> Iterator[str]:
    cursor, is_done = 0, False
    while not is_done and time.monotonic() < deadline_s:
        cursor, keys = redis.scan(cursor, match="*[eE][vV][eE][nN][tT]*[0-9]*", count=_KEYS_AT_ONCE, _type="stream")
        yield from (key.decode(errors="replace") for key in keys)
        is_done = cursor == 0


def _streams_of(redis: Redis, partitions: int, keys: Iterable[str]) -> dict[str, int]:
    """Return the lengths of those keys that are streams, look like a partition's and are not."""
    own = {stream_key(partition) for partition in range(partitions)}
    likely = sorted({key for key in keys if key not in own and _LOOKS_LIKE_ONE.fullmatch(key)})
    with redis.pipeline(transaction=False) as pipe:
        for key in likely:
            pipe.type(key)
        kinds = pipe.execute()
        streams = [key for key, kind in zip(likely, kinds, strict=True) if kind == b"stream"][:SHOWN_MAX]
        for key in streams:
            pipe.xlen(key)
        return dict(zip(streams, pipe.execute(), strict=True))
