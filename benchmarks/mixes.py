"""The events that backlogs are made of: the standard mix, one hot project, very many projects."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from event_stream.event_types import partition_of
from tests.support.events import body, mixed

PARTITIONS = 8
TENANTS = 20
PROJECTS_EACH = 50
_FIRST_MS = 1_764_000_000_000
_ID_AT = len('{"specversion": "1.0", "id": "')

Entry = tuple[int, bytes]


def standard(count: int) -> Iterator[dict[str, Any]]:
    """Yield events of all types over 20 tenants with 50 projects each."""
    return mixed(count, TENANTS, PROJECTS_EACH)


def hot(count: int) -> Iterator[dict[str, Any]]:
    """Yield the standard mix, but every second event of one and the same project."""
    for number, each in enumerate(standard(count)):
        yield each | {"tenantid": "ten_0", "projectid": str(UUID(int=1, version=4))} if number % 2 else each


def spread(count: int, projects: int) -> Iterator[dict[str, Any]]:
    """Yield the standard mix, but over so many projects, each touched as often as the others."""
    for number, each in enumerate(standard(count)):
        project = number % projects
        tenant, project_id = f"ten_{project % TENANTS}", str(UUID(int=project + 1, version=4))
        yield each | {"tenantid": tenant, "projectid": project_id}


def entries(events: Iterator[dict[str, Any]]) -> list[Entry]:
    """Return events as stream entries: partition and bytes."""
    return [(partition_of(each["tenantid"], PARTITIONS), body(each)) for each in events]


def in_order(made: list[Entry]) -> list[Entry]:
    """Return the same entries with ids as UUIDv7 has them, one a millisecond: each sorts after the one before."""
    start, end = _ID_AT, _ID_AT + len("01a1ee65-a428-7")
    ids = (f"{_FIRST_MS + number:012x}" for number in range(len(made)))
    return [
        (partition, raw[:start] + f"{digits[:8]}-{digits[8:]}-7".encode() + raw[end:])
        for (partition, raw), digits in zip(made, ids, strict=True)
    ]


def renumbered(made: list[Entry], generation: int) -> list[Entry]:
    """Return the same entries with other ids, so that none of them is a repeat."""
    start, end = _ID_AT, _ID_AT + 8
    return [(partition, raw[:start] + f"{generation:08x}".encode() + raw[end:]) for partition, raw in made]
