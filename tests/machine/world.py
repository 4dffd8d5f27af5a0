"""The deployment of one example, and what the machine knows of it."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from event_stream.entries import START, Position
from event_stream.envelope import time_text
from event_stream.event_types import partition_of
from event_stream.stream import stream_key
from projections.database.columns import metadata
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint
from projections.transaction.checkpoint import Checkpoint
from tests.machine.parts import BUDGET_S, DAY_US, PARTITIONS, POISON, WORKERS, Poisoned, Worker, Zombie, varied
from tests.support.driving import checkpoints
from tests.support.events import NOW_US, body, event
from tests.support.ledger import Ledger, Told
from tests.support.points import ProcessDiedError
from workers.dispatch.dispatcher import Dispatcher
from workers.drain.drainer import run
from workers.jobs.lease import Lease
from workers.runtime import Runtime


class World:
    """Empty servers, a few workers, no thread but the zombies', and a ledger that is told of every entry."""

    def __init__(self, runtime: Runtime, happened: Counter[str]) -> None:
        empty(runtime)
        self.runtime = replace(runtime, projections=[*PROJECTIONS, Poisoned()])
        self.redis = runtime.stream.redis
        self.happened = happened
        self.ledger = Ledger(PARTITIONS)
        self.workers = [Worker() for _ in range(WORKERS)]
        self.zombies: dict[int, Zombie] = {}
        self.now_s = 1000.0
        self.dispatcher = Dispatcher(self.runtime)
        self.dispatcher.trimmer.clock = lambda: self.now_s
        self.made = 0
        self.sent: list[dict[str, Any]] = []
        self.bad_bodies: dict[bytes, str] = {}
        self.copies: dict[int, bytes] = {}
        self.seen = checkpoints(self.runtime)

    # Producers

    def make(self, kind: str, tenant: str, project: str, days_ago: int, stamp: int, choice: int) -> dict[str, Any]:
        self.made += 1
        return event(
            kind,
            varied(kind, choice),
            id=f"{stamp:08x}-0000-4000-8000-{self.made:012x}",
            tenantid=tenant,
            projectid=project,
            time=time_text(NOW_US - days_ago * DAY_US),
        )

    def send(self, made: dict[str, Any]) -> None:
        self.sent.append(made)
        self.tell(partition_of(made["tenantid"], PARTITIONS), {"event": body(made)})

    def tell(self, partition: int, *entries: dict[Any, Any]) -> None:
        pipe = self.redis.pipeline(transaction=False)
        for fields in entries:
            pipe.xadd(stream_key(partition), fields)
        pipe.execute()
        self.note(partition)

    def note(self, partition: int) -> None:
        """Tell the ledger of what came to the stream."""
        self.ledger.add(partition, self.entries(partition, behind=self.ledger.noted[partition]))

    def entries(self, partition: int, behind: Position = START) -> list[Told]:
        """Return what lies in a stream and what it is."""
        found: Any = self.redis.xrange(stream_key(partition), min=f"({behind}")
        return [self.told(partition, Position.parse(id_), fields) for id_, fields in found]

    def told(self, partition: int, position: Position, fields: dict[bytes, bytes]) -> Told:
        raw = fields.get(b"event")
        if raw is None:
            shown = {name.decode(): value.decode() for name, value in fields.items()}
            raw = json.dumps(shown, sort_keys=True).encode()
            self.bad_bodies[raw] = "not_an_event"  # also where a replay gives it the field
        if raw in self.bad_bodies:
            return Told(position, raw, self.bad_bodies[raw])
        if partition_of(json.loads(raw)["tenantid"], PARTITIONS) != partition:
            return Told(position, raw, "wrong_partition")
        return Told(position, raw, "fold_failed" if POISON in raw.decode() else None)

    def exchange(self, partition: int) -> None:
        """Tell the ledger that the stream is not the one that it was."""
        added = self.runtime.stream.ends()[partition].added
        self.ledger.exchange(self.at(partition), self.entries(partition), added)
        self.happened["exchanged"] += 1

    def waiting(self, which: int) -> int:
        """Choose among the partitions that have something to read."""
        found = [partition for partition in range(PARTITIONS) if self.ledger.pending[partition]]
        return found[which % len(found)]

    def at(self, partition: int) -> Checkpoint:
        return checkpoints(self.runtime)[partition]

    def is_calm(self, partition: int) -> bool:
        """Whether the drain knows which stream it reads."""
        at = self.at(partition)
        return at.epoch >= self.ledger.awaited_epoch[partition] and at.position > START

    def is_settled(self, partition: int) -> bool:
        return self.at(partition).lost == self.ledger.lost[partition]

    def may_be_exchanged(self, partition: int) -> bool:
        """Whether it can be told what must become of the stream if it is another one from now on."""
        return self.is_calm(partition) and self.is_settled(partition) and partition not in self.zombies

    def wake(self, partition: int) -> None:
        """Let a zombie go on, long after its lease."""
        self.lapse(partition)
        zombie = self.zombies.pop(partition)
        self.happened["overtaken zombie"] += self.at(partition) != zombie.at
        zombie.wake()

    def run(self, worker: int, partition: int) -> None:
        """Let a worker drain a partition whose lease, if there was one, is over."""
        self.lapse(partition)
        drainer = self.workers[worker].drainer(self.runtime, partition)
        run(drainer, Lease(self.runtime.queue.connection, partition), BUDGET_S)

    def lapse(self, partition: int) -> None:
        """Let the time of the partition's lease pass."""
        self.redis.delete(f"projector:drain-lease:{{{partition}}}")

    def lose_lease(self, partition: int) -> None:
        self.happened["lease lost"] += 1
        self.redis.set(f"projector:drain-lease:{{{partition}}}", "another's")

    def death(self) -> None:
        self.happened["death"] += 1
        raise ProcessDiedError

    def sweep(self) -> list[int]:
        """Let the dispatcher sweep when all leases are over; returns the partitions that are behind."""
        for partition in range(PARTITIONS):
            self.lapse(partition)
        return self.dispatcher.sweep()[1]

    def ring_and_answer(self) -> list[int]:
        """The dispatcher sweeps, and a worker answers every job; returns the partitions that were behind."""
        behind = self.sweep()
        for job in self.runtime.queue.jobs:
            partition, token = job.args
            job.delete()
            drainer = self.workers[0].drainer(self.runtime, partition)
            run(drainer, Lease(self.runtime.queue.connection, partition, token), BUDGET_S)
        return behind

    def the_books_balance(self) -> None:
        """Checkpoints move forward, and counters are what the ledger and Redis's own make of it (G1)."""
        now = checkpoints(self.runtime)
        for before, at, end in zip(self.seen, now, self.runtime.stream.ends(), strict=True):
            assert (before.epoch, before.position) <= (at.epoch, at.position)
            ledger, partition = self.ledger, at.partition
            ledger.advance(partition, at.epoch, at.position)
            counts = ledger.counts[partition]
            expected = (counts["applied"], counts["duplicates"], counts["dead_lettered"])
            assert (at.applied, at.duplicates, at.dead_lettered) == expected
            assert at.read == at.applied + at.duplicates + at.dead_lettered
            in_flight = len(ledger.pending[partition])
            assert end.added + ledger.carried[partition] == at.read + in_flight + ledger.lost[partition]
            assert at.lost <= ledger.lost[partition]
        self.seen = now


def empty(runtime: Runtime) -> None:
    """Make both servers as they are after `projector migrate`."""
    runtime.stream.redis.flushall()
    with runtime.writer.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
        checkpoint.create_all(connection, PARTITIONS)
    runtime.check()
