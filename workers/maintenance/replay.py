"""Replay: append dead letters again, so that what could not be applied then is judged anew."""

from collections.abc import Callable
from dataclasses import dataclass

from event_stream.envelope import Reason
from event_stream.event_types import partition_of
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Selection, StoredDeadLetter
from workers.runtime import Runtime


@dataclass
class Replayed:
    """How many letters were appended again, and how many could not be, since only their beginning is kept."""

    appended: int = 0
    cut: int = 0


def replay(runtime: Runtime, selection: Selection, on_progress: Callable[[int], None] = lambda _: None) -> Replayed:
    """Append the bytes of open letters to their tenants' partitions; no checkpoint is touched.

    A letter closes in the transaction that applies its event; one that still cannot be applied is seen once more. If
    this dies in the middle, doing it again is harmless: what was applied is a duplicate.
    """
    outcome = Replayed()
    with runtime.reader.connect() as connection:
        for page in dead_letter_admin.pages(connection, selection):
            whole = [letter for letter in page if letter.reason != Reason.TOO_LARGE]
            runtime.stream.append([(_partition(runtime, letter), letter.body) for letter in whole])
            outcome.appended += len(whole)
            outcome.cut += len(page) - len(whole)
            on_progress(len(page))
    return outcome


def _partition(runtime: Runtime, letter: StoredDeadLetter) -> int:
    """Return the partition that is right for the letter's tenant; bytes that name none go where they came from."""
    if letter.tenant_id is None:
        return letter.partition
    return partition_of(letter.tenant_id, runtime.stream.partitions)
