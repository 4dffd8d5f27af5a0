"""Workloads: the events of a backlog, in a standard mix, with one hot project, or over many projects."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from event_stream.events.event import partition_of
from tests.support.events import body, mixed

PARTITIONS = 8
TENANTS = 20
PROJECTS_EACH = 50
_FIRST_MS = 1_764_000_000_000
_ID_AT = len('{"specversion": "1.0", "id": "')

BacklogEntry = tuple[int, bytes]


def standard_mix(count: int) -> Iterator[dict[str, Any]]:
    """Yield events of all types over 20 tenants with 50 projects each."""
    return mixed(count, TENANTS, PROJECTS_EACH)


def one_hot_project(count: int) -> Iterator[dict[str, Any]]:
    """Yield the standard mix, but with every second event in the same project."""
    for number, each in enumerate(standard_mix(count)):
        yield each | {"tenantid": "ten_0", "projectid": str(UUID(int=1, version=4))} if number % 2 else each


def many_projects(count: int, projects: int) -> Iterator[dict[str, Any]]:
    """Yield the standard mix, but evenly over `projects` projects."""
    for number, each in enumerate(standard_mix(count)):
        project = number % projects
        tenant, project_id = f"ten_{project % TENANTS}", str(UUID(int=project + 1, version=4))
        yield each | {"tenantid": tenant, "projectid": project_id}


def stream_entries(events: Iterator[dict[str, Any]]) -> list[BacklogEntry]:
    """Return events as entries of a stream: partition and bytes."""
    return [(partition_of(each["tenantid"], PARTITIONS), body(each)) for each in events]


def with_time_ordered_ids(entries: list[BacklogEntry]) -> list[BacklogEntry]:
    """Return the same entries with ascending event ids like UUIDv7, one per millisecond."""
    start, end = _ID_AT, _ID_AT + len("01a1ee65-a428-7")
    ids = (f"{_FIRST_MS + number:012x}" for number in range(len(entries)))
    return [
        (partition, raw[:start] + f"{digits[:8]}-{digits[8:]}-7".encode() + raw[end:])
        for (partition, raw), digits in zip(entries, ids, strict=True)
    ]


def with_new_ids(entries: list[BacklogEntry], generation: int) -> list[BacklogEntry]:
    """Return the same entries with other event ids, so that none is a duplicate."""
    start, end = _ID_AT, _ID_AT + 8
    return [(partition, raw[:start] + f"{generation:08x}".encode() + raw[end:]) for partition, raw in entries]
