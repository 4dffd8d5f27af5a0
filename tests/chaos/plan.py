"""The plan of a run, derived from one seed: the appended entries, and the faults with their times."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from tests.support.events import DAY_US, NOW_US, body, event, mixed, spelled_freely

PARTITIONS = 4
WORKERS = 3
EVENTS = 500
TENANTS, PROJECTS = 6, 4
FAULTS_FROM_S, FAULTS_UNTIL_S = 0.1, 1.6
APART_S = 0.25
LONGEST_S = 1.5
DATABASES = ("sqlite", "postgresql")


class Kind(StrEnum):
    """The kinds of faults. Killed means SIGKILL; paused means SIGSTOP and later SIGCONT."""

    WORKER_KILLED = "worker killed"
    WORKER_PAUSED = "worker paused"
    DISPATCHER_KILLED = "dispatcher killed"
    DISPATCHER_PAUSED = "dispatcher paused"
    PRODUCER_KILLED = "producer killed"
    ALL_KILLED = "all killed at once"
    REDIS_KILLED = "Redis killed"
    POSTGRESQL_KILLED = "PostgreSQL killed"
    CLIENTS_SILENT = "silent and half-sent requests to the API"
    CLIENTS_UNREADING = "clients of the API that never read"
    HUGE_ENTRY = "huge entry appended"


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: its time, its kind, which of several processes it hits, and its duration."""

    at_s: float
    kind: Kind
    which: int
    for_s: float

    @property
    def huge_entry(self) -> "Sent":
        """The entry that HUGE_ENTRY appends: 20 to 100 MB, more if the fault is longer; always the same."""
        size = int(20e6 + 80e6 * min(1.0, self.for_s / LONGEST_S))
        body = f"{self.at_s} {self.for_s} ".encode().ljust(size, b"x")
        return Sent(self.which % PARTITIONS, body, "too_large", None)


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    database: str
    faults: list[Fault]


class Sent(NamedTuple):
    """An entry that the producer appends: either its event, or the `reason` why it can never be applied."""

    partition: int
    body: bytes
    reason: str | None
    event: dict[str, Any] | None


def plan(seed: int, database: str = "") -> Plan:
    """Return the plan of a seed; without a database name the seed chooses one."""
    chance = random.Random(seed)
    database = database or DATABASES[seed % len(DATABASES)]
    kinds = kinds_on(database) + 2 * [Kind.WORKER_KILLED] + 4 * [Kind.WORKER_PAUSED]
    faults = [
        Fault(
            at_s=chance.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S),
            kind=chance.choice(kinds),
            which=chance.randrange(WORKERS),
            # Half of the faults last longer than a lease.
            for_s=chance.choice([chance.uniform(0.02, 0.4), chance.uniform(0.6, LONGEST_S)]),
        )
        for _ in range(chance.randint(4, 8))
    ]
    return Plan(seed, database, sorted(faults))


def every_kind(seed: int, database: str) -> Plan:
    """Return a plan with every kind of fault once, in an order that the seed chooses."""
    chance = random.Random(seed)
    kinds = kinds_on(database)
    chance.shuffle(kinds)
    kinds.sort(key=lambda kind: kind is not Kind.PRODUCER_KILLED)  # first, because the producer soon finishes
    faults = [
        Fault(number * APART_S, kind, chance.randrange(WORKERS), for_s=chance.uniform(0.02, APART_S / 2))
        for number, kind in enumerate(kinds)
    ]
    return Plan(seed, database, faults)


def kinds_on(database: str) -> list[Kind]:
    """Return the kinds of faults that apply to a database."""
    return [kind for kind in Kind if database == "postgresql" or kind is not Kind.POSTGRESQL_KILLED]


def traffic(seed: int) -> list[Sent]:
    """Return the entries of the producer in order: events, duplicates, and bad entries of every kind."""
    chance = random.Random(seed)
    sent: list[Sent] = []
    for made in spelled_freely(mixed(EVENTS, tenants=TENANTS, projects=PROJECTS, seed=seed), seed):
        owner = partition_of(made["tenantid"], PARTITIONS)
        sent.append(Sent(owner, body(made), None, made))
        if chance.random() < 0.06:
            repeated = chance.choice([entry for entry in sent if entry.event is not None])
            assert repeated.event is not None
            sent.append(repeated._replace(body=body(dict(reversed(repeated.event.items())))))
        if chance.random() < 0.06:
            sent.extend(bad(made, owner, chance.randrange(10**6)))
    return sent


def bad(good: dict[str, Any], owner: int, number: int) -> Iterator[Sent]:
    """Yield one bad entry for each reason, derived from a valid event; the same number gives the same entries."""
    fresh = event(
        tenantid=good["tenantid"], projectid=good["projectid"], id=f"{number:08x}-0000-4000-8000-000000000000"
    )
    yield Sent(owner, b'{"number": %d, "x": NaN}' % number, "not_json", None)
    yield Sent(owner, body(fresh | {"source": ""}), "not_an_event", None)
    yield Sent((owner + 1) % PARTITIONS, body(fresh), "wrong_partition", None)
    yield Sent(owner, body(fresh | {"type": "analysis.created.v2"}), "unknown_type", None)
    yield Sent(owner, body(fresh | {"data": {"analysisId": number}}), "invalid_data", None)
    yield Sent(owner, body(fresh | {"time": format_time(NOW_US + 30 * DAY_US)}), "time_in_future", None)
    yield Sent(owner, body(good | {"subject": f"/other/{number}"}), "id_conflict", None)
