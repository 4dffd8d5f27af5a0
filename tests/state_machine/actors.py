"""The actors of the state machine: workers, zombies, a projection with a bug, events and bad entries."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, MetaData, Table

from event_stream.events.event import Event
from event_stream.events.event_types import TYPES
from event_stream.events.rfc3339 import format_time
from projections.folding.projection import FoldError, Model
from tests.support.events import DATA, NOW_US, body
from tests.support.failpoints import at_failpoint
from tests.support.harness import checkpoints
from workers.drain.batch_size import BatchSize
from workers.drain.circuit_breaker import CircuitBreaker
from workers.drain.drainer import Drainer, run
from workers.drain.poison import PoisonSuspect
from workers.jobs.lease import Lease
from workers.runtime import Runtime

PARTITIONS = 4
DAY_US = 86_400_000_000
POISON = "poison"
TENANTS = ["ten_0", "ten_1", "ten_2", "ten_4"]  # two share a partition, and one partition has no tenant
FAILING_TENANT = TENANTS[0]  # failures of one tenant never open the breaker
PROJECTS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(2)]
BAD = ["too_large", "not_json", "not_an_event", "unknown_type", "invalid_data", "time_in_future"]
CRASH_POINTS = [
    "before read",
    "after read",
    "after claim",
    "inside accept",
    "after fold",
    "before commit",
    "after commit",
]
PAUSE_POINTS = ["before read", "after read", "after commit"]  # no transaction is open there
REASONS = [*BAD, "wrong_partition", "id_conflict", "fold_failed"]
WORKERS = 2
BUDGET_S = 600.0  # never reached, so that results do not depend on the speed of the machine


class Poisoned:
    """A projection with a bug: it fails on some events of one tenant."""

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
    """The in-memory state of a worker process; a crash loses it."""

    count: int = 16
    batch_sizes: dict[int, BatchSize] = field(default_factory=dict)
    suspects: dict[int, PoisonSuspect] = field(default_factory=dict)
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)

    def drainer(self, runtime: Runtime, partition: int) -> Drainer:
        batch_size = self.batch_sizes.setdefault(partition, BatchSize(self.count))
        suspect = self.suspects.setdefault(partition, PoisonSuspect())
        return Drainer(runtime, partition, batch_size, self.breaker, suspect)


class Zombie:
    """A drain in a thread that is paused at a failpoint until it is resumed."""

    def __init__(self, drainer: Drainer, lease: Lease, point: str) -> None:
        self.point = point
        self.held, self.resumed = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self._run, args=(drainer, lease))
        self.thread.start()
        while not self.held.wait(0.01) and self.thread.is_alive():
            pass
        self.at = checkpoints(drainer.runtime)[drainer.partition]

    def _run(self, drainer: Drainer, lease: Lease) -> None:
        with at_failpoint(self.point, 1, self._hold):
            run(drainer, lease, BUDGET_S)

    def _hold(self) -> None:
        self.held.set()
        self.resumed.wait()

    def resume(self) -> None:
        self.resumed.set()
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
    """Return an entry that can never be applied for the given reason."""
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
            return body(good | {"time": format_time(NOW_US + 30 * DAY_US)})
