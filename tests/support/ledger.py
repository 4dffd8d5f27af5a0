"""The ledger: a second, dumb bookkeeper, who is told what every entry is and says what must have become of it.

It judges nothing by the product's code: whoever appends an entry says what it is, and the contract says the rest.
"""

import json
from collections import Counter, deque
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeAlias

from event_stream.entries import START, Position
from projections.transaction.checkpoint import Checkpoint
from tests.support.oracle import Oracle

Identity: TypeAlias = tuple[str, str]


@dataclass(frozen=True)
class Told:
    """An entry of a stream: its position, its bytes, and the reason why it can never be applied, if it cannot."""

    position: Position
    body: bytes
    reason: str | None


@dataclass
class ExpectedLetter:
    """A dead letter as it has to be."""

    value: Any
    times_seen: int = 0
    state: str = "open"


@dataclass
class Ledger:
    """What is to be found in the database once the checkpoints are where they are."""

    partitions: int
    accepted: dict[Identity, dict[str, Any]] = field(default_factory=dict)
    letters: dict[tuple[str, str], ExpectedLetter] = field(default_factory=dict)
    pending: list[deque[Told]] = field(init=False)
    counts: list[Counter[str]] = field(init=False)
    # Of each partition: what a stream that was exchanged under us brought or took, and what Redis lost unread.
    carried: list[int] = field(init=False)
    lost: list[int] = field(init=False)
    awaited_epoch: list[int] = field(init=False)
    noted: list[Position] = field(init=False)
    last: list[tuple[Position, bytes] | None] = field(init=False)

    def __post_init__(self) -> None:
        self.pending = [deque() for _ in range(self.partitions)]
        self.counts = [Counter() for _ in range(self.partitions)]
        self.carried, self.lost, self.awaited_epoch = ([0] * self.partitions for _ in range(3))
        self.noted = [START] * self.partitions
        self.last = [None] * self.partitions

    def advance(self, partition: int, epoch: int, position: Position) -> None:
        """Judge what was read since the last time: everything up to the checkpoint."""
        pending = self.pending[partition]
        while pending and epoch >= self.awaited_epoch[partition] and pending[0].position <= position:
            entry = pending.popleft()
            self._judge(partition, entry)
            self.last[partition] = (entry.position, entry.body)

    def add(self, partition: int, entries: list[Told]) -> None:
        """Note what was appended."""
        self.pending[partition].extend(entries)
        if entries:
            self.noted[partition] = entries[-1].position

    def lose(self, partition: int, count: int) -> None:
        """Note that Redis lost the oldest entries that nobody has read."""
        for _ in range(count):
            self.pending[partition].popleft()
        self.lost[partition] += count

    def exchange(self, at: Checkpoint, entries: list[Told], added: int) -> None:
        """Note that a stream is another one now: what was seen there, unread, and is not in it any more is lost.

        If it lacks both the checkpoint's entry and the last one seen behind it, all of it is to be read (again).
        `carried` makes up for what its counter `added` tells of another life: a re-read counts as an entry.
        """
        places = {(entry.position, entry.body) for entry in entries}
        seen = [entry for entry in self.pending[at.partition] if entry.position <= at.seen.position]
        is_known = self.last[at.partition] in places or bool(seen and (seen[-1].position, seen[-1].body) in places)
        remaining = [entry for entry in seen if is_known and (entry.position, entry.body) in places]
        self.lost[at.partition] += len(seen) - len(remaining)
        self.pending[at.partition] = deque(entry for entry in entries if not is_known or entry.position > at.position)
        self.awaited_epoch[at.partition] = at.epoch + (not is_known)
        self.noted[at.partition] = entries[-1].position if entries else START
        self.carried[at.partition] = at.read + len(self.pending[at.partition]) + self.lost[at.partition] - added

    def oracle(self) -> Oracle:
        """Return the oracle of the accepted events."""
        made = Oracle()
        for event in self.accepted.values():
            made.add(event)
        return made

    def discard(self, reason: str) -> int:
        """Close the open letters of a reason; returns how many."""
        closed = [each for (its, _), each in self.letters.items() if its == reason and each.state == "open"]
        for letter in closed:
            letter.state = "discarded"
        return len(closed)

    def _judge(self, partition: int, entry: Told) -> None:
        value = _value(entry.body)
        reason = entry.reason
        # A bug that an event meets comes after all other reasons: an event that is a repeat or a conflict meets none.
        if reason in (None, "fold_failed"):
            known = self.accepted.get((value["tenantid"], value["id"]))
            if known is not None:
                reason = None if known == value else "id_conflict"
        if reason is None:
            is_new = (value["tenantid"], value["id"]) not in self.accepted
            self.accepted.setdefault((value["tenantid"], value["id"]), value)
            self.counts[partition]["applied" if is_new else "duplicates"] += 1
        else:
            key = (reason, sha256(entry.body).hexdigest())
            letter = self.letters.setdefault(key, ExpectedLetter(value))
            letter.times_seen += 1
            letter.state = "open"
            self.counts[partition]["dead_lettered"] += 1
        self._close_applied(value)

    def _close_applied(self, value: Any) -> None:
        if isinstance(value, dict) and value == self.accepted.get((value.get("tenantid", ""), value.get("id", ""))):
            for letter in self.letters.values():
                if letter.state == "open" and letter.value == value:
                    letter.state = "applied"


def _value(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
