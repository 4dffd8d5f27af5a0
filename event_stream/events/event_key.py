"""`event_key`: 128 bits that identify an event within its tenant (docs/reference/events.md#identity)."""

from uuid import UUID, uuid5

from event_stream.events.patterns import UUID_PATTERN, matches

NAMESPACE = UUID("eea4746f-f73d-48e8-88dd-26b6ef56f994")
"""The namespace of the keys of ids that are no UUIDs. It never changes, because the event log holds such keys."""


def event_key(id_: str, source: str) -> str:
    """Return the key of an event as a UUID in lower case: its `id` if that is a UUID, else from `source` and `id`."""
    # CloudEvents ids are unique only within their source. A source never holds a space, so the name is unambiguous.
    return id_.lower() if matches(UUID_PATTERN, id_) else str(uuid5(NAMESPACE, f"{source} {id_}"))
