"""A reference model of the drain: it records every appended entry and predicts counters, event log and dead letters.

It uses none of the product's decisions. The test states for each entry whether it can be applied, and the model follows
the rules of docs/reference/events.md.
"""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

from event_stream.streams.entries import START, Position
from projections.transaction.checkpoint import Checkpoint
from tests.support.oracle import Oracle, identity

Identity: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class AppendedEntry:
    """An entry of a stream: its position, its bytes, and the reason if it can never be applied."""

    position: Position
    body: bytes
    reason: str | None


@dataclass
class ExpectedDeadLetter:
    """A dead letter that the database must contain."""

    value: Any
    times_seen: int = 0
    state: str = "open"


@dataclass
class ReferenceModel:
    """The expected contents of the database at the current checkpoints."""

    partitions: int
    accepted: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    dead_letters: dict[tuple[str, str], ExpectedDeadLetter] = field(default_factory=dict)
    pending: list[deque[AppendedEntry]] = field(init=False)
    counts: list[Counter[str]] = field(init=False)
    # For each partition: the offset of the counter of a replaced stream, and the entries that Redis lost unread.
    added_offset: list[int] = field(init=False)
    lost: list[int] = field(init=False)
    expected_epoch: list[int] = field(init=False)
    last_recorded: list[Position] = field(init=False)
    last: list[tuple[Position, bytes] | None] = field(init=False)

    def __post_init__(self) -> None:
        self.pending = [deque() for _ in range(self.partitions)]
        self.counts = [Counter() for _ in range(self.partitions)]
        self.added_offset, self.lost, self.expected_epoch = ([0] * self.partitions for _ in range(3))
        self.last_recorded = [START] * self.partitions
        self.last = [None] * self.partitions

    def advance(self, partition: int, epoch: int, position: Position) -> None:
        """Apply all recorded entries up to the checkpoint."""
        pending = self.pending[partition]
        while pending and epoch >= self.expected_epoch[partition] and pending[0].position <= position:
            entry = pending.popleft()
            self._apply(partition, entry)
            self.last[partition] = (entry.position, entry.body)

    def add(self, partition: int, entries: list[AppendedEntry]) -> None:
        """Record appended entries."""
        self.pending[partition].extend(entries)
        if entries:
            self.last_recorded[partition] = entries[-1].position

    def lose(self, partition: int, count: int) -> None:
        """Record that Redis lost the oldest unread entries."""
        for _ in range(count):
            self.pending[partition].popleft()
        self.lost[partition] += count

    def replace_stream(self, at: Checkpoint, entries: list[AppendedEntry], added: int) -> None:
        """Record that a stream was replaced. Unread entries that were seen and are no longer in it are lost.

        If the new stream has neither the checkpoint's entry nor the last entry seen after it, all of it is read (again).
        `added_offset` corrects the new stream's counter `added`; an entry that is read again counts once more.
        """
        places = {(entry.position, entry.body) for entry in entries}
        seen = [entry for entry in self.pending[at.partition] if entry.position <= at.known_end.position]
        is_known = self.last[at.partition] in places or bool(seen and (seen[-1].position, seen[-1].body) in places)
        remaining = [entry for entry in seen if is_known and (entry.position, entry.body) in places]
        self.lost[at.partition] += len(seen) - len(remaining)
        self.pending[at.partition] = deque(entry for entry in entries if not is_known or entry.position > at.position)
        self.expected_epoch[at.partition] = at.epoch + (not is_known)
        self.last_recorded[at.partition] = entries[-1].position if entries else START
        self.added_offset[at.partition] = at.read + len(self.pending[at.partition]) + self.lost[at.partition] - added

    def oracle(self) -> Oracle:
        """Return the oracle of the accepted events."""
        made = Oracle()
        for event in self.accepted.values():
            made.add(event)
        return made

    def discard(self, reason: str) -> int:
        """Close the open dead letters of a reason; returns how many."""
        closed = [each for (its, _), each in self.dead_letters.items() if its == reason and each.state == "open"]
        for dead_letter in closed:
            dead_letter.state = "discarded"
        return len(closed)

    def _apply(self, partition: int, entry: AppendedEntry) -> None:
        value = _value(entry.body)
        reason = entry.reason
        # A duplicate or conflicting event never reaches a fold, so it cannot fail there.
        if reason in (None, "fold_failed"):
            known = self.accepted.get(identity(value))
            if known is not None:
                reason = None if known == value else "id_conflict"
        if reason is None:
            is_new = identity(value) not in self.accepted
            self.accepted.setdefault(identity(value), value)
            self.counts[partition]["applied" if is_new else "duplicates"] += 1
        else:
            key = (reason, sha256(entry.body).hexdigest())
            dead_letter = self.dead_letters.setdefault(key, ExpectedDeadLetter(value))
            dead_letter.times_seen += 1
            dead_letter.state = "open"
            self._close_replaced(*key)
            self.counts[partition]["dead_lettered"] += 1
        self._close_applied(value)

    def _close_replaced(self, reason: str, body_sha256: str) -> None:
        for (other, sha), dead_letter in self.dead_letters.items():
            if sha == body_sha256 and other != reason != "wrong_partition" and dead_letter.state == "open":
                dead_letter.state = "replaced"

    def _close_applied(self, value: Any) -> None:
        named = isinstance(value, dict) and all(
            isinstance(value.get(name), str) for name in ("tenantid", "id", "source")
        )
        if named and value == self.accepted.get(identity(value)):
            for dead_letter in self.dead_letters.values():
                if dead_letter.state == "open" and dead_letter.value == value:
                    dead_letter.state = "applied"


def _value(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
