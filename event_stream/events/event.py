"""`Event`: one validated event, its identity, its order and its partition."""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias
from zlib import crc32

from event_stream.events.event_types import Data
from event_stream.events.rfc3339 import parse_valid_time

Identity: TypeAlias = tuple[str, str]


class Event(NamedTuple):
    """A validated event.

    `id` is the event key. `project_id` is in lower case, and None for tenant-level types. `time_us` is in microseconds
    since 1970 UTC. `type`, `time` and `body` stay as received, also when `data` was upcast to a newer version.
    """

    tenant_id: str
    id: str
    type: str
    time: str
    time_us: int
    project_id: str | None
    data: Data
    body: bytes

    @property
    def identity(self) -> Identity:
        """(tenant id, event key), the same for every copy of the event (docs/reference/events.md#identity)."""
        return (self.tenant_id, self.id)

    @property
    def stamp(self) -> tuple[int, str]:
        """(time, event key): the order that decides last-writer-wins values (docs/reference/events.md#order)."""
        return (self.time_us, self.id)


def build_event(members: Mapping[str, Any], body: bytes) -> Event:
    """Return the event with these validated members; raises ValueError if its `time` does not exist."""
    time = members["time"]
    return Event(
        members["tenantid"],
        members["id"],
        members["type"],
        time,
        parse_valid_time(time),
        members.get("projectid"),
        members["data"],
        body,
    )


def partition_of(tenant_id: str, partitions: int) -> int:
    """Return the partition of a tenant: crc32 of its UTF-8 bytes, modulo P (docs/reference/events.md#streams)."""
    return crc32(tenant_id.encode()) % partitions
