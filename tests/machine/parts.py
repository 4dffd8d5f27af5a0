"""What the machine is made of: workers, zombies, a projection with a bug, events and bad entries."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, MetaData, Table

from event_stream.envelope import time_text
from event_stream.event_types import TYPES, Event
from projections.folding.projection import FoldError, Model
from tests.support.driving import checkpoints
from tests.support.events import DATA, NOW_US, body
from tests.support.points import at_point
from workers.drain.batch_size import BatchSize
from workers.drain.circuit_breaker import CircuitBreaker
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.runtime import Runtime

PARTITIONS = 4
DAY_US = 86_400_000_000
POISON = "poison"
TENANTS = ["ten_0", "ten_1", "ten_2", "ten_4"]  # two of them share a partition, and one partition has none
PRONE = TENANTS[0]  # one tenant alone never opens the breaker
PROJECTS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(2)]
BAD = ["too_large", "not_json", "not_an_event", "unknown_type", "invalid_data", "time_in_future"]
DEATHS = ["before read", "after read", "after claim", "inside accept", "after fold", "before commit", "after commit"]
STALLS = ["before read", "after read", "after commit"]  # no transaction is open there
REASONS = [*BAD, "wrong_partition", "id_conflict", "fold_failed"]
WORKERS = 2
BUDGET_S = 600.0  # how far a drain gets must not hang on how fast this machine is


class Poisoned:
    """A projection with a bug: it fails on what one tenant sends at times."""

    name, version, table = "poisoned", 1, Table("poisoned", MetaData())
    reads = frozenset(TYPES.values())

    def fetch(self, connection: Connection, events: Sequence[Event]) -> Model:
        return {}

    def fold_into(self, model: Model, events: Sequence[Event]) -> None:
        for each in events:
            if POISON in each.body.decode():
                raise FoldError(f"projection {self.name}", each, ValueError(POISON))

    def store(self, connection: Connection, model: Model) -> None:
        pass


@dataclass
class Worker:
    """What a worker process remembers; its death forgets it."""

    count: int = 16
    paces: dict[int, BatchSize] = field(default_factory=dict)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def drainer(self, runtime: Runtime, partition: int) -> Drainer:
        return Drainer(runtime, partition, self.paces.setdefault(partition, BatchSize(self.count)), self.breaker)


class Zombie:
    """A drain in a thread, held at a point until somebody wakes it up."""

    def __init__(self, drainer: Drainer, lease: Lease, point: str) -> None:
        self.point = point
        self.held, self.woken = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(drainer, lease))
        self.thread.start()
        while not self.held.wait(0.01) and self.thread.is_alive():
            pass
        self.at = checkpoints(drainer.runtime)[drainer.partition]

    def _run(self, drainer: Drainer, lease: Lease) -> None:
        with at_point(self.point, 1, self._hold):
            run(drainer, lease, BUDGET_S)

    def _hold(self) -> None:
        self.held.set()
        self.woken.wait()

    def wake(self) -> None:
        self.woken.set()
        self.thread.join()


def varied(type_: str, choice: int) -> dict[str, Any]:
    match type_:
        case "project.created.v1":
            return {"slug": "ab"[choice % 2], "name": "xyz"[choice]}
        case "project.updated.v1":
            return {"slug": [None, "a", "b"][choice], "name": None}
        case "watchdog.toggled.v1":
            return {"enabled": choice > 0}
        case "watchdog.evaluated.v1":
            fired: dict[str, Any] = {"passed": False, "alertFired": True, "suppressedReason": None, "summary": "é"}
            quiet = fired | {"alertFired": False, "suppressedReason": "dedup"}
            return [fired, quiet, fired | {"passed": True, "alertFired": False, "summary": ""}][choice]
        case _:
            return {name: f"{value}_{choice}" for name, value in DATA[type_].items() if name.endswith("Id")}


def bad_entry(reason: str, good: dict[str, Any], number: int) -> bytes:
    """Return bytes that can never be applied, for a reason that they show themselves."""
    match reason:
        case "too_large":
            return body(good | {"pad": "x" * 65_536})
        case "not_json":
            return b'{"number": %d, "x": NaN}' % number
        case "not_an_event":
            return body({"number": number})
        case "unknown_type":
            return body(good | {"type": "analysis.created.v2"})
        case "invalid_data":
            return body(good | {"type": "analysis.created.v1", "data": {"analysisId": number}})
        case _:
            return body(good | {"time": time_text(NOW_US + 30 * DAY_US)})
