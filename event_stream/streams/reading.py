"""Read entries of a stream up to a number of bytes that is known before they are sent.

docs/decisions/0047-never-transfer-an-entry-of-unknown-size.md
"""

from collections.abc import Iterator
from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import RedisError

from event_stream.streams.ends import LOOK_LUA, RANGE_AFTER_LUA, parse_end
from event_stream.streams.entries import BODY_BYTES_KEPT, EVENT_FIELD, Entry, LargeEntry, Position, StreamSlice
from event_stream.streams.entry_digest import ENTRY_BYTES_MAX, PART_BYTES
from event_stream.streams.raw_reply import RawReply, connection_of
from event_stream.streams.scripts import Script, run_script
from event_stream.streams.stream_keys import stream_key

INLINE_BYTES_MAX = 65_536
# The server copies a page before its size is known, so a page is short.
_PAGE_ENTRIES = 8

# ARGV: position, additional position, entries and bytes at most. Returns the stream's end, the digests of the entries
# at both positions and of the last one, the number and last id of the entries after the position that keep within the
# limits, these entries themselves if they are small, and a description of the first one instead if it is large.
_MEASURE = Script(
    LOOK_LUA
    + RANGE_AFTER_LUA
    + f"""
local key, position, extra = KEYS[1], ARGV[1], ARGV[2]
local count_max, bytes_max = tonumber(ARGV[3]), tonumber(ARGV[4])
local found, first, last = look(key)
if #found ~= 4 then return {{found}} end

local function digest_at(id)
    if id == '0-0' then return '' end
    local entry = redis.call('XRANGE', key, id, id)[1]
    return entry and digest(entry[2]) or ''
end

local function describe(entry)
    local large = {{entry[1], digest(entry[2]), size_of(entry[2])}}
    for i = 1, #entry[2], 2 do
        if entry[2][i] == 'event' then
            large[4], large[5] = #entry[2][i + 1], i
            large[6] = string.sub(entry[2][i + 1], 1, {BODY_BYTES_KEPT})
        end
    end
    return large
end

local function measure()
    local number, size, last_id, small, after = 0, 0, '', {{}}, position
    local page_max = 1
    while number < count_max do
        local page = range_after(key, after, math.min(page_max, count_max - number))
        if #page == 0 then break end
        for i = 1, #page do
            local entry = page[i]
            local parts = entry[2]
            local bytes = #parts == 2 and {2 * PART_BYTES} + #parts[1] + #parts[2] or size_of(parts)
            if bytes > {ENTRY_BYTES_MAX} then
                return number, size, last_id, small, number == 0 and describe(entry) or nil
            end
            if number > 0 and size + bytes > bytes_max then return number, size, last_id, small end
            number, size, last_id = number + 1, size + bytes, entry[1]
            if size <= {INLINE_BYTES_MAX} then
                small[number] = entry
            elseif #small > 0 then
                small = {{}}
            end
        end
        after = last_id
        page_max = {_PAGE_ENTRIES}
    end
    return number, size, last_id, small
end

local own_digest = (first and first[1] == position) and digest(first[2]) or digest_at(position)
local extra_digest = (last and last[1] == extra) and digest(last[2])
    or (extra == position and own_digest or digest_at(extra))
local number, size, last_id, small, large = measure()
return {{found, own_digest, extra_digest, last and digest(last[2]) or '', number, last_id, small, large}}
"""
)
# ARGV: position, number. Returns the id of the entry that is so many entries after the position, or of the last one.
_POSITION_AFTER = Script(
    RANGE_AFTER_LUA
    + f"""
if redis.call('TYPE', KEYS[1]).ok ~= 'stream' then return '' end
local after, left = ARGV[1], tonumber(ARGV[2])
local last_id = ''
while left > 0 do
    local page = range_after(KEYS[1], after, math.min({_PAGE_ENTRIES}, left))
    if #page == 0 then break end
    left, after = left - #page, page[#page][1]
    last_id = after
end
return last_id
"""
)


class EntryRemovedError(RedisError):
    """An entry was removed while it was read. Reading again shows what is there now."""


def read_slice(
    redis: Redis, partition: int, position: Position, extra_position: Position, count: int, bytes_max: int
) -> StreamSlice:
    """Return the entries after `position`, at most `count` and `bytes_max` but at least one, and the stream's end.

    A large entry is returned alone and without its end. The end and the digests are those of one moment.
    """
    key = stream_key(partition)
    while True:
        measured = run_script(redis, _MEASURE, key, str(position), str(extra_position), count, bytes_max)
        end = parse_end(measured[0])
        if len(measured) == 1:
            return StreamSlice([], end, before=position)
        own_digest, extra_digest, end_digest, number, last_id, small, *large = measured[1:]
        entries = _inline(small) or _large(large) or _transfer(redis, key, position, last_id, number)
        # Fewer entries than measured means that some were removed in between. What is there now is measured again.
        if large or len(entries) == number:
            digests = (bytes.fromhex(each.decode()) for each in (own_digest, extra_digest, end_digest))
            return StreamSlice(entries, end, position, *digests)


def position_after(redis: Redis, partition: int, position: Position, number: int) -> Position | None:
    """Return the position of the entry that is `number` entries after a position, or of the last one after it."""
    found = run_script(redis, _POSITION_AFTER, stream_key(partition), str(position), number)
    return Position.parse(found) if found else None


def iter_body(redis: Redis, partition: int, entry: Entry) -> Iterator[bytes]:
    """Yield the field `event` of a large entry in chunks; raises EntryRemovedError.

    This transfers the whole entry. Only the drain needs it, once for each entry, for the hash of the body.
    """
    assert entry.large is not None
    entry_id = entry.entry_id.decode()
    found = False
    with connection_of(redis) as connection:
        connection.send_command("XRANGE", stream_key(partition), entry_id, entry_id)
        for number, (size, chunks) in enumerate(_iter_parts(RawReply(connection))):
            if (number, size) == (entry.large.body_index, entry.body_length):
                found = True
                yield from chunks
    if not found:
        raise EntryRemovedError(f"the entry {entry_id} of partition {partition} is gone")


def _iter_parts(reply: RawReply) -> Iterator[tuple[int, Iterator[bytes]]]:
    """Yield the size and chunks of each name and value in a reply to XRANGE that has one entry or none."""
    left, values = 1, 0
    while left:
        kind, text = reply.head()
        left -= 1
        if kind in (b"*", b">"):  # a notification precedes the reply
            left += max(0, int(text)) + (kind == b">")
        elif kind == b"$":
            values += 1
            chunks = reply.iter_value(int(text))
            if values > 1:  # the first one is the entry's id
                yield int(text), chunks
            for _ in chunks:
                pass


def _inline(small: list[tuple[bytes, list[bytes]]]) -> list[Entry]:
    return [Entry(entry_id, parts) for entry_id, parts in small]


def _large(large: list[Any]) -> list[Entry]:
    """Return the description of a large entry as an entry that holds the beginning of its field `event` only."""
    if not large:
        return []
    entry_id, digest, size, *body = large[0]
    length, index, beginning = body or (0, 0, None)
    parts = [] if beginning is None else [EVENT_FIELD, beginning]
    return [Entry(entry_id, parts, LargeEntry(bytes.fromhex(digest.decode()), size, length, index))]


def _transfer(redis: Redis, key: str, position: Position, last_id: bytes, number: int) -> list[Entry]:
    """Return the entries after `position` up to `last_id`, which were measured."""
    if not number:
        return []
    callbacks = {**redis.response_callbacks, "XRANGE": _parse_entries}
    pipe = Pipeline(redis.connection_pool, callbacks, transaction=False, shard_hint=None)
    pipe.xrange(key, min=f"({position}", max=last_id.decode(), count=number)
    entries: list[Entry] = pipe.execute()[0]
    return entries


def _parse_entries(reply: list[tuple[bytes, list[bytes]]], **_options: object) -> list[Entry]:
    return [Entry(entry_id, parts) for entry_id, parts in reply]
