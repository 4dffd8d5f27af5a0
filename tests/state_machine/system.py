"""The deployment of one example, together with its reference model."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from event_stream.streams.entries import START, Position
from event_stream.streams.stream_keys import stream_key
from projections.database.columns import metadata
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint_table
from projections.transaction.checkpoint import Checkpoint
from tests.state_machine.actors import BUDGET_S, DAY_US, PARTITIONS, POISON, WORKERS, Poisoned, Worker, Zombie, varied
from tests.support.events import NOW_US, body, event
from tests.support.failpoints import SimulatedCrashError
from tests.support.harness import checkpoints
from tests.support.reference_model import AppendedEntry, ReferenceModel
from workers.dispatch.dispatcher import Dispatcher
from workers.drain.drainer import run
from workers.jobs.lease import Lease
from workers.runtime import Runtime


class System:
    """Empty servers, a few workers, and a reference model that records every entry. Only zombies run in threads."""

    def __init__(self, runtime: Runtime, happened: Counter[str]) -> None:
        empty(runtime)
        self.runtime = replace(runtime, projections=[*PROJECTIONS, Poisoned()])
        self.redis = runtime.stream.redis
        self.happened = happened
        self.model = ReferenceModel(PARTITIONS)
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
            time=format_time(NOW_US - days_ago * DAY_US),
        )

    def send(self, made: dict[str, Any]) -> None:
        self.sent.append(made)
        self.append_entries(partition_of(made["tenantid"], PARTITIONS), {"event": body(made)})

    def append_entries(self, partition: int, *entries: dict[Any, Any]) -> None:
        pipe = self.redis.pipeline(transaction=False)
        for fields in entries:
            pipe.xadd(stream_key(partition), fields)
        pipe.execute()
        self.record(partition)

    def record(self, partition: int) -> None:
        """Record the new entries of a stream in the model."""
        self.model.add(partition, self.entries(partition, after=self.model.last_recorded[partition]))

    def entries(self, partition: int, after: Position = START) -> list[AppendedEntry]:
        """Return the entries of a stream, each with its expected outcome."""
        found: Any = self.redis.xrange(stream_key(partition), min=f"({after}")
        return [self.describe(partition, Position.parse(id_), fields) for id_, fields in found]

    def describe(self, partition: int, position: Position, fields: dict[bytes, bytes]) -> AppendedEntry:
        raw = fields.get(b"event")
        if raw is None:
            shown = {name.decode(): value.decode() for name, value in fields.items()}
            raw = json.dumps(shown, sort_keys=True).encode()
            self.bad_bodies[raw] = "not_an_event"  # also after a replay has added the field
        if raw in self.bad_bodies:
            return AppendedEntry(position, raw, self.bad_bodies[raw])
        if partition_of(json.loads(raw)["tenantid"], PARTITIONS) != partition:
            return AppendedEntry(position, raw, "wrong_partition")
        return AppendedEntry(position, raw, "fold_failed" if POISON in raw.decode() else None)

    def replace_stream(self, partition: int) -> None:
        """Record in the model that a stream was replaced."""
        added = self.runtime.stream.ends()[partition].added
        self.model.replace_stream(self.at(partition), self.entries(partition), added)
        self.happened["replaced"] += 1

    def waiting(self, which: int) -> int:
        """Choose a partition that has unread entries."""
        found = [partition for partition in range(PARTITIONS) if self.model.pending[partition]]
        return found[which % len(found)]

    def at(self, partition: int) -> Checkpoint:
        return checkpoints(self.runtime)[partition]

    def knows_its_stream(self, partition: int) -> bool:
        """Whether the drain has noticed the current stream."""
        at = self.at(partition)
        return at.epoch >= self.model.expected_epoch[partition] and at.position > START

    def is_settled(self, partition: int) -> bool:
        return self.at(partition).lost == self.model.lost[partition]

    def may_be_replaced(self, partition: int) -> bool:
        """Whether the model can predict the outcome if the stream is replaced now."""
        return self.knows_its_stream(partition) and self.is_settled(partition) and partition not in self.zombies

    def resume(self, partition: int) -> None:
        """Resume a zombie after its lease has expired."""
        self.expire_lease(partition)
        zombie = self.zombies.pop(partition)
        self.happened["overtaken zombie"] += self.at(partition) != zombie.at
        zombie.resume()
        self.advance()

    def run(self, worker: int, partition: int) -> None:
        """Let a worker drain a partition; an existing lease has expired."""
        self.expire_lease(partition)
        drainer = self.workers[worker].drainer(self.runtime, partition)
        run(drainer, Lease(self.runtime.queue.connection, partition), BUDGET_S)
        self.advance()

    def expire_lease(self, partition: int) -> None:
        """Let the partition's lease expire."""
        self.redis.delete(f"projector:drain-lease:{{{partition}}}")

    def lose_lease(self, partition: int) -> None:
        self.happened["lease lost"] += 1
        self.redis.set(f"projector:drain-lease:{{{partition}}}", "another's")

    def crash(self) -> None:
        self.happened["crash"] += 1
        raise SimulatedCrashError

    def sweep(self) -> list[int]:
        """Let the dispatcher sweep after all leases have expired; returns the partitions with lag."""
        for partition in range(PARTITIONS):
            self.expire_lease(partition)
        return self.dispatcher.sweep()[1]

    def sweep_and_drain(self) -> list[int]:
        """Let the dispatcher sweep and a worker run every job; returns the partitions that had lag."""
        lagging = self.sweep()
        for job in self.runtime.queue.jobs:
            partition, token = job.args
            job.delete()
            drainer = self.workers[0].drainer(self.runtime, partition)
            run(drainer, Lease(self.runtime.queue.connection, partition, token), BUDGET_S)
            self.advance()
        return lagging

    def advance(self) -> None:
        """Let the model apply what was drained; after each drain, since the newest reason of a dead letter counts."""
        for at in checkpoints(self.runtime):
            self.model.advance(at.partition, at.epoch, at.position)

    def counters_match(self) -> None:
        """Checkpoints move forward, and counters equal those of the model and of Redis (G1)."""
        self.advance()
        now = checkpoints(self.runtime)
        for before, at, end in zip(self.seen, now, self.runtime.stream.ends(), strict=True):
            assert (before.epoch, before.position) <= (at.epoch, at.position)
            model, partition = self.model, at.partition
            counts = model.counts[partition]
            expected = (counts["applied"], counts["duplicates"], counts["dead_lettered"])
            assert (at.applied, at.duplicates, at.dead_lettered) == expected
            assert at.read == at.applied + at.duplicates + at.dead_lettered
            in_flight = len(model.pending[partition])
            assert end.added + model.added_offset[partition] == at.read + in_flight + model.lost[partition]
            assert at.lost <= model.lost[partition]
        self.seen = now


def empty(runtime: Runtime) -> None:
    """Reset both servers to their state after `projector migrate`."""
    runtime.stream.redis.flushall()
    with runtime.writer.begin() as connection:
        for table in metadata.sorted_tables:
            connection.execute(table.delete())
        checkpoint_table.create_all(connection, PARTITIONS)
    runtime.check()
