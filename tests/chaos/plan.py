"""What a run does, all of it from one seed: the entries that are appended, and what goes wrong when."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple

from event_stream.envelope import time_text
from event_stream.event_types import partition_of
from tests.support.events import DAY_US, NOW_US, body, event, mixed

PARTITIONS = 4
WORKERS = 3
EVENTS = 500
TENANTS, PROJECTS = 6, 4
FAULTS_FROM_S, FAULTS_UNTIL_S = 0.1, 1.6
APART_S = 0.25
DATABASES = ("sqlite", "postgresql")


class Kind(StrEnum):
    """What can go wrong. Killed is SIGKILL, paused is SIGSTOP and later SIGCONT."""

    WORKER_KILLED = "worker killed"
    WORKER_PAUSED = "worker paused"
    DISPATCHER_KILLED = "dispatcher killed"
    DISPATCHER_PAUSED = "dispatcher paused"
    PRODUCER_KILLED = "producer killed"
    ALL_KILLED = "all killed at once"
    REDIS_KILLED = "Redis killed"
    POSTGRESQL_KILLED = "PostgreSQL killed"


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that goes wrong: when, what, to which of several, and after how long it comes back."""

    at_s: float
    kind: Kind
    which: int
    for_s: float


@dataclass(frozen=True)
class Plan:
    """One run."""

    seed: int
    database: str
    faults: list[Fault]


class Sent(NamedTuple):
    """An entry that the producer appends; `reason` says why it can never be applied, `event` what it holds else."""

    partition: int
    body: bytes
    reason: str | None
    event: dict[str, Any] | None


def plan(seed: int, database: str = "") -> Plan:
    """Return the plan of a seed; where no database is named, the seed chooses one."""
    chance = random.Random(seed)
    database = database or DATABASES[seed % len(DATABASES)]
    kinds = kinds_on(database) + 2 * [Kind.WORKER_KILLED] + 4 * [Kind.WORKER_PAUSED]
    faults = [
        Fault(
            at_s=chance.uniform(FAULTS_FROM_S, FAULTS_UNTIL_S),
            kind=chance.choice(kinds),
            which=chance.randrange(WORKERS),
            # Half of the pauses outlast a lease.
            for_s=chance.choice([chance.uniform(0.02, 0.4), chance.uniform(0.6, 1.5)]),
        )
        for _ in range(chance.randint(4, 8))
    ]
    return Plan(seed, database, sorted(faults))


def every_kind(seed: int, database: str) -> Plan:
    """Return a plan in which everything goes wrong that can, one after the other, in an order that the seed chooses."""
    chance = random.Random(seed)
    kinds = kinds_on(database)
    chance.shuffle(kinds)
    kinds.sort(key=lambda kind: kind is not Kind.PRODUCER_KILLED)  # first: it comes to its own end soon
    faults = [
        Fault(number * APART_S, kind, chance.randrange(WORKERS), for_s=chance.uniform(0.02, APART_S / 2))
        for number, kind in enumerate(kinds)
    ]
    return Plan(seed, database, faults)


def kinds_on(database: str) -> list[Kind]:
    """Return what can go wrong on a database."""
    return [kind for kind in Kind if database == "postgresql" or kind is not Kind.POSTGRESQL_KILLED]


def traffic(seed: int) -> list[Sent]:
    """Return what the producer appends in this order: events, repeats of them, and bad entries of every kind."""
    chance = random.Random(seed)
    sent: list[Sent] = []
    for made in mixed(EVENTS, tenants=TENANTS, projects=PROJECTS, seed=seed):
        home = partition_of(made["tenantid"], PARTITIONS)
        sent.append(Sent(home, body(made), None, made))
        if chance.random() < 0.06:
            repeated = chance.choice([entry for entry in sent if entry.event is not None])
            assert repeated.event is not None
            sent.append(repeated._replace(body=body(dict(reversed(repeated.event.items())))))
        if chance.random() < 0.06:
            sent.extend(bad(made, home, chance.randrange(10**6)))
    return sent


def bad(good: dict[str, Any], home: int, number: int) -> Iterator[Sent]:
    """Yield an entry for each reason for which it can never be applied, beside a good event; of a number the same."""
    fresh = event(
        tenantid=good["tenantid"], projectid=good["projectid"], id=f"{number:08x}-0000-4000-8000-000000000000"
    )
    yield Sent(home, b'{"number": %d, "x": NaN}' % number, "not_json", None)
    yield Sent(home, body(fresh | {"source": ""}), "not_an_event", None)
    yield Sent((home + 1) % PARTITIONS, body(fresh), "wrong_partition", None)
    yield Sent(home, body(fresh | {"type": "analysis.created.v2"}), "unknown_type", None)
    yield Sent(home, body(fresh | {"data": {"analysisId": number}}), "invalid_data", None)
    yield Sent(home, body(fresh | {"time": time_text(NOW_US + 30 * DAY_US)}), "time_in_future", None)
    yield Sent(home, body(good | {"source": f"/other/{number}"}), "id_conflict", None)
