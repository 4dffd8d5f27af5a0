"""The rules of the state machine: actions of producers, workers, operators, time and Redis, in any order."""

import asyncio
from collections import Counter
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from event_stream.events.event import partition_of
from event_stream.events.event_types import TYPES
from event_stream.streams.stream_keys import stream_key
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Selection
from tests.state_machine import final_checks
from tests.state_machine.actors import (
    BAD,
    CRASH_POINTS,
    FAILING_TENANT,
    PARTITIONS,
    PAUSE_POINTS,
    POISON,
    PROJECTS,
    REASONS,
    TENANTS,
    WORKERS,
    Worker,
    Zombie,
    bad_entry,
)
from tests.state_machine.system import System
from tests.support.events import NOW_US, body
from tests.support.failpoints import SimulatedCrashError, at_failpoint
from tests.support.harness import stored_dead_letters
from workers.dispatch.trimmer import TRIM_AFTER_S, TRIM_EVERY_S
from workers.jobs.lease import Lease
from workers.maintenance.replay import replay
from workers.runtime import Runtime

event_values = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(sorted(TYPES)),
        "tenant": st.sampled_from(TENANTS),
        "project": st.sampled_from(PROJECTS),
        "days_ago": st.sampled_from([1, 2, 29, 30, 31, 33, 40]),
        "stamp": st.integers(0, 99),
        "choice": st.integers(0, 2),
    }
)
partitions = st.sampled_from([partition_of(tenant, PARTITIONS) for tenant in TENANTS])
crashes = st.tuples(st.sampled_from(CRASH_POINTS), st.integers(1, 2))


class DrainMachine(RuleBasedStateMachine):
    """Each rule is one event in the life of a deployment; after each the counters must match the reference model."""

    def __init__(self, runtime: Runtime, happened: Counter[str]) -> None:
        super().__init__()
        self.system = System(runtime, happened)

    # Producers

    @rule(made=st.lists(event_values, min_size=1, max_size=6))
    def append(self, made: list[dict[str, Any]]) -> None:
        for each in made:
            self.system.send(self.system.make(**each))

    @rule(values=event_values, count=st.integers(20, 60))
    def flood(self, values: dict[str, Any], count: int) -> None:
        values = values | {"kind": ["watchdog.evaluated.v1", "analysis.created.v1"][values["choice"] % 2]}
        made = [self.system.make(**values) for _ in range(count)]
        self.system.append_entries(
            partition_of(values["tenant"], PARTITIONS), *({"event": body(each)} for each in made)
        )

    @precondition(lambda self: self.system.sent)
    @rule(which=st.integers(0), reordered=st.booleans())
    def repeat(self, which: int, reordered: bool) -> None:
        made = self.system.sent[which % len(self.system.sent)]
        self.system.send(dict(reversed(made.items())) if reordered else made)

    @precondition(lambda self: self.system.sent)
    @rule(which=st.integers(0), source=st.sampled_from(["/a", "/b"]))
    def conflict(self, which: int, source: str) -> None:
        self.system.send(self.system.sent[which % len(self.system.sent)] | {"source": source})

    @rule(values=event_values, reason=st.sampled_from(BAD), number=st.integers(0, 3))
    def bad(self, values: dict[str, Any], reason: str, number: int) -> None:
        raw = bad_entry(reason, self.system.make(**values), number)
        self.system.bad_bodies[raw] = reason
        self.system.append_entries(partition_of(values["tenant"], PARTITIONS), {"event": raw})

    @rule(partition=partitions, number=st.integers(0, 3))
    def without_an_event(self, partition: int, number: int) -> None:
        self.system.append_entries(partition, {"other": number})

    @precondition(lambda self: self.system.sent)
    @rule(which=st.integers(0))
    def misdirect(self, which: int) -> None:
        made = self.system.sent[which % len(self.system.sent)]
        owner = partition_of(made["tenantid"], PARTITIONS)
        self.system.append_entries((owner + 1) % PARTITIONS, {"event": body(made)})

    @rule(values=event_values)
    def poison(self, values: dict[str, Any]) -> None:
        made = self.system.make(**values | {"tenant": FAILING_TENANT, "kind": "watchdog.evaluated.v1"})
        self.system.send(made | {"source": f"/{POISON}"})

    # Workers and their faults

    @rule(worker=st.integers(0, WORKERS - 1), partition=partitions)
    def drain(self, worker: int, partition: int) -> None:
        self.system.run(worker, partition)

    @precondition(lambda self: any(self.system.model.pending))
    @rule(worker=st.integers(0, WORKERS - 1), waiting=st.integers(0))
    def step(self, worker: int, waiting: int) -> None:
        """Drain one batch, then lose the lease."""
        partition = self.system.waiting(waiting)
        with at_failpoint("after commit", 1, partial(self.system.lose_lease, partition)):
            self.system.run(worker, partition)

    @precondition(lambda self: any(self.system.model.pending))
    @rule(worker=st.integers(0, WORKERS - 1), waiting=st.integers(0), crash=crashes)
    def crash(self, worker: int, waiting: int, crash: tuple[str, int]) -> None:
        partition = self.system.waiting(waiting)
        try:
            with at_failpoint(*crash, act=self.system.crash):
                self.system.run(worker, partition)
        except SimulatedCrashError:
            self.system.workers[worker] = Worker()

    @precondition(lambda self: any(self.system.model.pending))
    @rule(waiting=st.integers(0), point=st.sampled_from(PAUSE_POINTS), count=st.integers(1, 20))
    def stall(self, waiting: int, point: str, count: int) -> None:
        partition = self.system.waiting(waiting)
        if partition not in self.system.zombies:
            self.system.expire_lease(partition)
            lease = Lease(self.system.runtime.queue.connection, partition)
            zombie = Zombie(Worker(count).drainer(self.system.runtime, partition), lease, point)
            if zombie.thread.is_alive():
                self.system.zombies[partition] = zombie

    @precondition(lambda self: self.system.zombies)
    @rule(which=st.integers(0))
    def resume(self, which: int) -> None:
        partition = sorted(self.system.zombies)[which % len(self.system.zombies)]
        self.system.resume(partition)

    @rule(worker=st.integers(0, WORKERS - 1), count=st.integers(1, 20))
    def restart(self, worker: int, count: int) -> None:
        self.system.workers[worker] = Worker(count)

    @rule()
    def dispatch(self) -> None:
        self.system.sweep_and_drain()

    # Operators and time

    @rule(reason=st.sampled_from(REASONS))
    def replay(self, reason: str) -> None:
        before = [
            dead_letter
            for dead_letter in stored_dead_letters(self.system.runtime)
            if (dead_letter.state, dead_letter.reason) == ("open", reason)
        ]
        outcome = replay(self.system.runtime, Selection(reason=reason))
        assert outcome.appended + outcome.too_large == len(before)
        self.system.happened["replay"] += outcome.appended
        for partition in range(PARTITIONS):
            self.system.record(partition)

    @rule(reason=st.sampled_from(REASONS))
    def discard(self, reason: str) -> None:
        discarded = dead_letter_admin.discard(self.system.runtime.writer, Selection(reason=reason))
        assert discarded.closed == self.system.model.discard(reason)

    @rule()
    def a_minute_passes(self) -> None:
        self.system.now_s += TRIM_AFTER_S + TRIM_EVERY_S
        before = sum(end.length for end in self.system.runtime.stream.ends())
        self.system.sweep()
        self.system.happened["trimmed"] += before - sum(end.length for end in self.system.runtime.stream.ends())

    # Faults of Redis

    @rule(partition=partitions, kept=st.integers(0, 5))
    def lose_unread(self, partition: int, kept: int) -> None:
        """Trim unread entries; they are counted as lost."""
        lost = len(self.system.model.pending[partition]) - kept
        if lost > 0 and self.system.knows_its_stream(partition) and partition not in self.system.zombies:
            self.system.redis.xtrim(stream_key(partition), maxlen=kept, approximate=False)
            self.system.model.lose(partition, lost)
            self.system.happened["lost"] += lost

    @rule(partition=partitions)
    def rewind(self, partition: int) -> None:
        """Delete the checkpoint's own entry: unless another seen entry remains, the rest is read again."""
        if not self.system.may_be_replaced(partition):
            return
        if self.system.redis.xdel(stream_key(partition), str(self.system.at(partition).position)):
            self.system.replace_stream(partition)

    @rule(partition=partitions)
    def copy(self, partition: int) -> None:
        if (
            self.system.knows_its_stream(partition)
            and (copy := self.system.redis.dump(stream_key(partition))) is not None
        ):
            self.system.copies[partition] = copy

    @rule(partition=partitions)
    def restore(self, partition: int) -> None:
        """Restore a stream from its copy."""
        if partition in self.system.copies and self.system.may_be_replaced(partition):
            self.system.redis.restore(stream_key(partition), 0, self.system.copies[partition], replace=True)
            self.system.replace_stream(partition)

    @rule(values=event_values, clock_is_behind=st.booleans())
    def lose_stream(self, values: dict[str, Any], clock_is_behind: bool) -> None:
        """Delete a stream; the next one may start with lower ids."""
        partition = partition_of(values["tenant"], PARTITIONS)
        if self.system.may_be_replaced(partition) and self.system.redis.delete(stream_key(partition)):
            self.system.copies.pop(partition, None)
            self.system.replace_stream(partition)
            if clock_is_behind:
                self.system.sent.append(made := self.system.make(**values))
                an_hour_ago = f"{NOW_US // 1000 - 3_600_000 + len(self.system.sent)}-1"
                self.system.redis.xadd(stream_key(partition), {"event": body(made)}, id=an_hour_ago)
                self.system.record(partition)

    # Invariants

    @invariant()
    def counters_match(self) -> None:
        self.system.counters_match()

    def teardown(self) -> None:
        for partition in sorted(self.system.zombies):
            self.system.resume(partition)
        final_checks.drains_completely(self.system)
        final_checks.nothing_is_in_flight(self.system)
        final_checks.log_equals_accepted_events(self.system)
        final_checks.dead_letters_equal_refused_entries(self.system)
        final_checks.hints_are_correct(self.system)
        asyncio.run(final_checks.answers_equal_the_oracle(self.system))
        self.system.happened["examples"] += 1
