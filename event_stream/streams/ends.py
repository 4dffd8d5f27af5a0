"""`EndReader`: reads the ends of streams, without transferring their entries.

Why a large entry is looked at seldom: docs/decisions/0047-never-transfer-an-entry-of-unknown-size.md
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from redis import Redis

from event_stream.streams.entries import LARGEST, START, Position, StreamEnd
from event_stream.streams.entry_digest import DIGEST_LUA
from event_stream.streams.scripts import Call, RedisTooOldError, Script, run_scripts
from event_stream.streams.stream_keys import stream_key

# Looking at the stream copies its first and last entry within the server.
EXPENSIVE_BYTES = 1024 * 1024
UNCHANGED_S = 30.0
CHANGED_S = 1.0

# `XRANGE` refuses to start after the largest id. Nothing can follow it.
RANGE_AFTER_LUA = f"""
local function range_after(key, id, count)
    if id == '{LARGEST}' then return {{}} end
    return redis.call('XRANGE', key, '(' .. id, '+', 'COUNT', count)
end
"""
# Defines `look`: nothing if there is no stream, else {length, entries added, id of the last entry, last id that was
# given}, first entry and last entry.
LOOK_LUA = (
    DIGEST_LUA
    + """
local function look(key)
    local kind = redis.call('TYPE', key).ok
    if kind == 'none' then return {} end
    if kind ~= 'stream' then return {'WRONGTYPE'} end
    local reply, info = redis.call('XINFO', 'STREAM', key), {}
    for i = 1, #reply, 2 do info[reply[i]] = reply[i + 1] end
    if not info['entries-added'] then return {'TOOOLD'} end
    local first, last = info['first-entry'] or nil, info['last-entry'] or nil
    return {info['length'], info['entries-added'], last and last[1] or '', info['last-generated-id']}, first, last
end
"""
)
_LOOK = Script(
    LOOK_LUA
    + """
local found, first, last = look(KEYS[1])
if first then found[5] = size_of(first[2]) + size_of(last[2]) end
return found
"""
)
# The id of the first entry after a position, and the length. It copies that entry only.
_GROWN = Script(
    RANGE_AFTER_LUA
    + """
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return {0, ''} end
local following = range_after(KEYS[1], ARGV[1], 1)[1]
return {redis.call('XLEN', KEYS[1]), following and following[1] or ''}
"""
)


class _Remembered(NamedTuple):
    end: StreamEnd
    read_at_s: float


@dataclass
class EndReader:
    """Reads the ends of streams; remembers those of streams whose first or last entry is large."""

    redis: Redis
    clock: Callable[[], float] = time.monotonic
    _remembered: dict[int, _Remembered] = field(default_factory=dict)

    def read(self, partitions: Sequence[int]) -> list[StreamEnd]:
        """Return the end of each stream; `added` and the position of a large one may be up to a second old."""
        known = self._read_remembered(partitions)
        unknown = [partition for partition in partitions if partition not in known]
        read_at_s = self.clock()
        replies = run_scripts(self.redis, [Call(_LOOK, stream_key(partition)) for partition in unknown])
        for partition, reply in zip(unknown, replies, strict=True):
            known[partition] = parse_end(reply)
            if len(reply) > 4 and reply[4] > EXPENSIVE_BYTES:
                self._remembered[partition] = _Remembered(known[partition], read_at_s)
        return [known[partition] for partition in partitions]

    def _read_remembered(self, partitions: Sequence[int]) -> dict[int, StreamEnd]:
        """Return the ends that are remembered and still right, and estimates of those that were just read."""
        now_s = self.clock()
        self._remembered = {
            partition: each for partition, each in self._remembered.items() if now_s - each.read_at_s < UNCHANGED_S
        }
        asked = [partition for partition in partitions if partition in self._remembered]
        calls = [
            Call(_GROWN, stream_key(partition), [str(self._remembered[partition].end.position or START)])
            for partition in asked
        ]
        ends: dict[int, StreamEnd] = {}
        for partition, (length, following) in zip(asked, run_scripts(self.redis, calls), strict=True):
            end, read_at_s = self._remembered[partition]
            if length == end.length and not following:
                ends[partition] = end
            elif following and now_s - read_at_s < CHANGED_S:
                added = end.added + max(1, length - end.length)
                position = Position.parse(following)
                last_id = max(end.last_id, position)
                ends[partition] = replace(end, position=position, length=length, added=added, last_id=last_id)
        return ends


def parse_end(reply: Sequence[Any]) -> StreamEnd:
    """Return the end of a stream from what `look` returned; raises RedisTooOldError."""
    if not reply or reply[0] == b"WRONGTYPE":
        return StreamEnd(None, length=0, added=0, wrong_type=bool(reply))
    if reply[0] == b"TOOOLD":
        raise RedisTooOldError
    length, added, last, last_id = reply[:4]
    position = Position.parse(last) if last else None
    return StreamEnd(position, length=length, added=added, last_id=Position.parse(last_id))
