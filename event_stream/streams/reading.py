"""Read entries and ends of streams."""

from typing import Any

from redis import Redis
from redis.client import Pipeline
from redis.exceptions import OutOfMemoryError, ResponseError

from event_stream.errors import EventStreamError
from event_stream.streams.entries import Entry, Position, StreamEnd, StreamSlice
from event_stream.streams.stream_keys import stream_key


class RedisTooOldError(EventStreamError):
    """The server does not count the entries ever added to a stream, so lost entries could not be detected."""

    def __init__(self) -> None:
        super().__init__("this Redis is too old to count the entries ever added; use Redis 7.0 or Valkey 8, or newer")


def read_slice(redis: Redis, partition: int, position: Position, count: int, extra_position: Position) -> StreamSlice:
    """Return a snapshot: up to `count` entries from `position` on, the entry at `extra_position`, and the end."""
    try:
        return _execute(reading_pipeline(redis, transaction=True), partition, position, count, extra_position)
    except OutOfMemoryError:
        # A full Redis 7 refuses any MULTI, even one that only reads. But then it accepts no new entries either.
        return _execute(reading_pipeline(redis, transaction=False), partition, position, count, extra_position)


def reading_pipeline(redis: Redis, *, transaction: bool) -> Pipeline:
    """Return a pipeline whose replies hold entries as they are in the stream, also if a field's name is repeated.

    redis-py would build a dict for each entry, which also takes longer than reading it.
    """
    callbacks = {**redis.response_callbacks, "XRANGE": _parse_entries, "XINFO STREAM": _parse_info}
    return Pipeline(redis.connection_pool, callbacks, transaction=transaction, shard_hint=None)


def parse_end(info: Any) -> StreamEnd:
    """Return the end of a stream from the reply to XINFO STREAM, which may be an error."""
    wrong_type = isinstance(info, ResponseError) and "WRONGTYPE" in str(info)
    if wrong_type or (isinstance(info, ResponseError) and "no such key" in str(info)):
        return StreamEnd(last=None, length=0, added=0, wrong_type=wrong_type)
    info = raise_if_error(info)
    if "entries-added" not in info:
        raise RedisTooOldError
    # Use the last existing entry: with `last-generated-id`, a deleted tail would count as entries to drain.
    last = info["last-entry"]
    return StreamEnd(Entry(*last) if last else None, length=int(info["length"]), added=int(info["entries-added"]))


def raise_if_error(reply: Any) -> Any:
    """Return a reply of Redis, or raise it if it is an error."""
    if isinstance(reply, Exception):
        raise reply
    return reply


def _execute(pipe: Pipeline, partition: int, position: Position, count: int, extra_position: Position) -> StreamSlice:
    key = stream_key(partition)
    pipe.xinfo_stream(key)
    pipe.xrange(key, min=str(position), count=count)
    pipe.xrange(key, min=str(extra_position), max=str(extra_position))
    info, entries, extra_entries = pipe.execute(raise_on_error=False)
    end = parse_end(info)
    if end.wrong_type:
        return StreamSlice([], end)
    return StreamSlice(raise_if_error(entries), end, extra_entry=next(iter(raise_if_error(extra_entries)), None))


def _parse_info(reply: Any, **_options: object) -> dict[str, Any]:
    """Parse the reply to XINFO STREAM: a list of names and values, or a map in version 3 of Redis's protocol."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {name.decode(): value for name, value in pairs}


def _parse_entries(reply: list[tuple[bytes, list[bytes]]], **_options: object) -> list[Entry]:
    return [Entry(entry_id, parts) for entry_id, parts in reply]
