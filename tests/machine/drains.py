"""The rules of the machine: what producers, workers, operators, time and Redis do in any order."""

import asyncio
from collections import Counter
from functools import partial
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from event_stream.event_types import TYPES, partition_of
from event_stream.stream import stream_key
from projections.lifecycle import dead_letter_admin
from projections.lifecycle.dead_letter_admin import Selection
from tests.machine import truths
from tests.machine.parts import (
    BAD,
    DEATHS,
    PARTITIONS,
    POISON,
    PROJECTS,
    PRONE,
    REASONS,
    STALLS,
    TENANTS,
    WORKERS,
    Worker,
    Zombie,
    bad_entry,
)
from tests.machine.world import World
from tests.support.driving import letters
from tests.support.events import NOW_US, body
from tests.support.points import ProcessDiedError, at_point
from workers.dispatch.trimmer import TRIM_BEHIND_S, TRIM_EVERY_S
from workers.jobs.lease import Lease
from workers.maintenance.replay import replay
from workers.runtime import Runtime

facts = st.fixed_dictionaries(
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
deaths = st.tuples(st.sampled_from(DEATHS), st.integers(1, 2))


class Drains(RuleBasedStateMachine):
    """Each rule is one thing that can happen; after each the books have to balance."""

    def __init__(self, runtime: Runtime, happened: Counter[str]) -> None:
        super().__init__()
        self.world = World(runtime, happened)

    # What producers do

    @rule(made=st.lists(facts, min_size=1, max_size=6))
    def append(self, made: list[dict[str, Any]]) -> None:
        for each in made:
            self.world.send(self.world.make(**each))

    @rule(fact=facts, count=st.integers(20, 60))
    def flood(self, fact: dict[str, Any], count: int) -> None:
        fact = fact | {"kind": ["watchdog.evaluated.v1", "analysis.created.v1"][fact["choice"] % 2]}
        made = [self.world.make(**fact) for _ in range(count)]
        self.world.tell(partition_of(fact["tenant"], PARTITIONS), *({"event": body(each)} for each in made))

    @precondition(lambda self: self.world.sent)
    @rule(which=st.integers(0), reordered=st.booleans())
    def repeat(self, which: int, reordered: bool) -> None:
        made = self.world.sent[which % len(self.world.sent)]
        self.world.send(dict(reversed(made.items())) if reordered else made)

    @precondition(lambda self: self.world.sent)
    @rule(which=st.integers(0), source=st.sampled_from(["/a", "/b"]))
    def conflict(self, which: int, source: str) -> None:
        self.world.send(self.world.sent[which % len(self.world.sent)] | {"source": source})

    @rule(fact=facts, reason=st.sampled_from(BAD), number=st.integers(0, 3))
    def bad(self, fact: dict[str, Any], reason: str, number: int) -> None:
        raw = bad_entry(reason, self.world.make(**fact), number)
        self.world.bad_bodies[raw] = reason
        self.world.tell(partition_of(fact["tenant"], PARTITIONS), {"event": raw})

    @rule(partition=partitions, number=st.integers(0, 3))
    def without_an_event(self, partition: int, number: int) -> None:
        self.world.tell(partition, {"other": number})

    @precondition(lambda self: self.world.sent)
    @rule(which=st.integers(0))
    def misdirect(self, which: int) -> None:
        made = self.world.sent[which % len(self.world.sent)]
        home = partition_of(made["tenantid"], PARTITIONS)
        self.world.tell((home + 1) % PARTITIONS, {"event": body(made)})

    @rule(fact=facts)
    def poison(self, fact: dict[str, Any]) -> None:
        made = self.world.make(**fact | {"tenant": PRONE, "kind": "watchdog.evaluated.v1"})
        self.world.send(made | {"source": f"/{POISON}"})

    # What workers do, and what befalls them

    @rule(worker=st.integers(0, WORKERS - 1), partition=partitions)
    def drain(self, worker: int, partition: int) -> None:
        self.world.run(worker, partition)

    @precondition(lambda self: any(self.world.ledger.pending))
    @rule(worker=st.integers(0, WORKERS - 1), waiting=st.integers(0))
    def step(self, worker: int, waiting: int) -> None:
        """One batch, and the lease is lost."""
        partition = self.world.waiting(waiting)
        with at_point("after commit", 1, partial(self.world.lose_lease, partition)):
            self.world.run(worker, partition)

    @precondition(lambda self: any(self.world.ledger.pending))
    @rule(worker=st.integers(0, WORKERS - 1), waiting=st.integers(0), death=deaths)
    def die(self, worker: int, waiting: int, death: tuple[str, int]) -> None:
        partition = self.world.waiting(waiting)
        try:
            with at_point(*death, act=self.world.death):
                self.world.run(worker, partition)
        except ProcessDiedError:
            self.world.workers[worker] = Worker()

    @precondition(lambda self: any(self.world.ledger.pending))
    @rule(waiting=st.integers(0), point=st.sampled_from(STALLS), count=st.integers(1, 20))
    def stall(self, waiting: int, point: str, count: int) -> None:
        partition = self.world.waiting(waiting)
        if partition not in self.world.zombies:
            self.world.lapse(partition)
            lease = Lease(self.world.runtime.queue.connection, partition)
            zombie = Zombie(Worker(count).drainer(self.world.runtime, partition), lease, point)
            if zombie.thread.is_alive():
                self.world.zombies[partition] = zombie

    @precondition(lambda self: self.world.zombies)
    @rule(which=st.integers(0))
    def wake(self, which: int) -> None:
        partition = sorted(self.world.zombies)[which % len(self.world.zombies)]
        self.world.wake(partition)

    @rule(worker=st.integers(0, WORKERS - 1), count=st.integers(1, 20))
    def restart(self, worker: int, count: int) -> None:
        self.world.workers[worker] = Worker(count)

    @rule()
    def ring(self) -> None:
        self.world.ring_and_answer()

    # What operators do, and time

    @rule(reason=st.sampled_from(REASONS))
    def replay(self, reason: str) -> None:
        before = [letter for letter in letters(self.world.runtime) if (letter.state, letter.reason) == ("open", reason)]
        outcome = replay(self.world.runtime, Selection(reason=reason))
        assert outcome.appended + outcome.cut == len(before)
        self.world.happened["replay"] += outcome.appended
        for partition in range(PARTITIONS):
            self.world.note(partition)

    @rule(reason=st.sampled_from(REASONS))
    def discard(self, reason: str) -> None:
        with self.world.runtime.writer.begin() as connection:
            discarded = dead_letter_admin.discard(connection, Selection(reason=reason))
        assert discarded == self.world.ledger.discard(reason)

    @rule()
    def a_minute_passes(self) -> None:
        self.world.now_s += TRIM_BEHIND_S + TRIM_EVERY_S
        before = sum(end.length for end in self.world.runtime.stream.ends())
        self.world.sweep()
        self.world.happened["trimmed"] += before - sum(end.length for end in self.world.runtime.stream.ends())

    # What befalls Redis

    @rule(partition=partitions, kept=st.integers(0, 5))
    def lose_unread(self, partition: int, kept: int) -> None:
        """Somebody trims what nobody has read yet; what is known to be gone is counted."""
        lost = len(self.world.ledger.pending[partition]) - kept
        if lost > 0 and self.world.is_calm(partition) and partition not in self.world.zombies:
            self.world.redis.xtrim(stream_key(partition), maxlen=kept, approximate=False)
            self.world.ledger.lose(partition, lost)
            self.world.happened["lost"] += lost

    @rule(partition=partitions)
    def rewind(self, partition: int) -> None:
        """The checkpoint's own entry disappears: unless another that was seen is there, what remains is read again."""
        if not self.world.may_be_exchanged(partition):
            return
        if self.world.redis.xdel(stream_key(partition), str(self.world.at(partition).position)):
            self.world.exchange(partition)

    @rule(partition=partitions)
    def copy(self, partition: int) -> None:
        if self.world.is_calm(partition) and (copy := self.world.redis.dump(stream_key(partition))) is not None:
            self.world.copies[partition] = copy

    @rule(partition=partitions)
    def restore(self, partition: int) -> None:
        """The stream is as old as its copy again."""
        if partition in self.world.copies and self.world.may_be_exchanged(partition):
            self.world.redis.restore(stream_key(partition), 0, self.world.copies[partition], replace=True)
            self.world.exchange(partition)

    @rule(fact=facts, clock_is_behind=st.booleans())
    def lose_stream(self, fact: dict[str, Any], clock_is_behind: bool) -> None:
        """A whole stream is gone; the next one may begin with lower ids."""
        partition = partition_of(fact["tenant"], PARTITIONS)
        if self.world.may_be_exchanged(partition) and self.world.redis.delete(stream_key(partition)):
            self.world.copies.pop(partition, None)
            self.world.exchange(partition)
            if clock_is_behind:
                self.world.sent.append(made := self.world.make(**fact))
                an_hour_ago = f"{NOW_US // 1000 - 3_600_000 + len(self.world.sent)}-1"
                self.world.redis.xadd(stream_key(partition), {"event": body(made)}, id=an_hour_ago)
                self.world.note(partition)

    # What has to hold

    @invariant()
    def the_books_balance(self) -> None:
        self.world.the_books_balance()

    def teardown(self) -> None:
        for partition in sorted(self.world.zombies):
            self.world.wake(partition)
        truths.drains_without_a_hand(self.world)
        truths.the_books_are_closed(self.world)
        truths.log_is_what_was_accepted(self.world)
        truths.letters_are_what_was_refused(self.world)
        truths.hints_are_right(self.world)
        asyncio.run(truths.answers_are_the_oracles(self.world))
        self.world.happened["examples"] += 1
