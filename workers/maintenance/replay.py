"""Replays dead letters: appends them to the streams again, so that their events are validated and applied again."""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection

from event_stream.errors import Reason
from event_stream.events.event import partition_of
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Selection, StoredDeadLetter
from workers.errors import WorkersError
from workers.runtime import Runtime


class ClosedDeadLetterError(WorkersError):
    """A dead letter that was chosen by its id is closed. Nothing was replayed."""


@dataclass
class ReplayResult:
    """How many dead letters were appended again, and how many are too large, so that only their beginning is stored."""

    appended: int = 0
    too_large: int = 0


def replay(runtime: Runtime, selection: Selection, on_progress: Callable[[int], None] = lambda _: None) -> ReplayResult:
    """Append the bytes of open dead letters to the partitions of their tenants.

    A dead letter closes in the transaction that applies its event. If the event still cannot be applied, its dead
    letter stays open and is counted as seen once more, or is replaced by one with the new reason. An interrupted replay
    can be repeated: applied events are duplicates. Raises ClosedDeadLetterError if an id of the selection is closed.
    """
    result = ReplayResult()
    with runtime.reader.connect() as connection:
        _refuse_closed(connection, selection)
        for page in dead_letter_admin.iter_pages(connection, selection):
            bodies = [
                (_partition(runtime, dead_letter), dead_letter.body)
                for dead_letter in page
                if dead_letter.body is not None and dead_letter.reason != Reason.TOO_LARGE
            ]
            runtime.stream.append(bodies)
            result.appended += len(bodies)
            result.too_large += len(page) - len(bodies)
            on_progress(len(page))
    return result


def _refuse_closed(connection: Connection, selection: Selection) -> None:
    if selection.ids and (closed := dead_letter_admin.find_closed_ids(connection, selection.ids)):
        raise ClosedDeadLetterError(
            f"dead letter {closed[0]} is closed, and its bytes were dropped then; let the producer append the event"
            " again"
        )


def _partition(runtime: Runtime, dead_letter: StoredDeadLetter) -> int:
    """Return the owner partition of the tenant, or the original partition if the entry names no tenant."""
    if dead_letter.tenant_id is None:
        return dead_letter.partition
    return partition_of(dead_letter.tenant_id, runtime.stream.partitions)
