"""Events that are projected in this process while a fault happens, and the checks that must pass after the fault.

work = Workload.load(runtime)               append events of all types, a duplicate and bad entries
fail_at(monkeypatch, "after fold", fault)     run `fault()` once at that failpoint, inside a transaction
work.run_until_drained()                        run a dispatcher and RQ workers until nothing is left
work.assert_complete()                     check the oracle, Redis's counters and the dead letters
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError
from structlog.testing import capture_logs

from event_stream.events.event import partition_of
from projections.transaction.checkpoint import Checkpoint
from tests.support.events import body, mixed
from tests.support.harness import append, append_raw, checkpoints, stored_dead_letters
from tests.support.invariants import assert_fully_projected
from tests.support.servers import wait_until
from workers.dispatch import dispatcher
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import create_worker
from workers.drain import drainer
from workers.drain.drainer import needs_drain
from workers.runtime import Runtime

EVENTS = 600  # enough for more than three batches in each partition
BAD = (b"nonsense", b"other nonsense")


@dataclass
class Workload:
    """The appended events, and what was observed while they were projected."""

    runtime: Runtime
    made: list[dict[str, Any]]
    logs: list[Any] = field(default_factory=list)
    highest: list[Checkpoint] = field(default_factory=list)
    ending: threading.Thread | None = None

    @classmethod
    def load(cls, runtime: Runtime, count: int = EVENTS) -> "Workload":
        """Append events of several tenants, one event twice, and entries that can never be applied."""
        made = list(mixed(count, tenants=4, projects=3))
        append(runtime, *made)
        owner = partition_of(str(made[0]["tenantid"]), runtime.stream.partitions)
        append_raw(runtime, owner, *BAD, body(made[0]))
        return cls(runtime, made)

    def run_until_drained(self, timeout_s: float = 60) -> None:
        """Dispatch and drain until nothing is left."""
        with capture_logs() as self.logs, _dispatching(self.runtime), _in_this_process(self.runtime):
            wait_until(self._drained, "nothing is left to drain", timeout_s)
        if self.ending is not None:
            self.ending.join()

    def _drained(self) -> bool:
        create_worker(self.runtime).work(burst=True, max_jobs=8, logging_level="CRITICAL")
        try:
            found = checkpoints(self.runtime)
        except SQLAlchemyError:
            return False
        for before, at in zip(self.highest, found, strict=bool(self.highest)):
            assert (at.epoch, at.position) >= (before.epoch, before.position), "a checkpoint went back"
        self.highest = found
        ends = self.runtime.stream.ends()
        return not any(needs_drain(at, end) for at, end in zip(found, ends, strict=True))

    def end_fault_after_first_failure(self, end: Callable[[], object]) -> None:
        """Call `end` in a thread, to end the fault as soon as a drain has failed because of it."""

        def wait_and_end() -> None:
            try:
                wait_until(self.failures, "a drain fails")
            finally:
                end()

        self.ending = threading.Thread(target=wait_and_end)
        self.ending.start()

    def failures(self) -> list[str]:
        """Return the errors that drains logged; each must be classified as external."""
        found = [each for each in self.logs if each["event"] == "drain.failed"]
        assert {each["fault"] for each in found} <= {"external"}
        return [str(each["error"]) for each in found]

    def dispatcher_outages(self) -> list[str]:
        """Return the outages that the dispatcher logged."""
        return [str(each["error"]) for each in self.logs if each["event"] == "dispatcher.outage"]

    def assert_complete(self, runtime: Runtime | None = None) -> None:
        """Check that each event counts once, that the fault caused no dead letter, and that no checkpoint went back."""
        seen_through = runtime or self.runtime
        counted = assert_fully_projected(seen_through, self.made)
        assert (counted["duplicates"], counted["dead_lettered"]) == (1, len(BAD))
        assert {at.epoch for at in checkpoints(seen_through)} == {0}
        assert sorted((each.reason, each.times_seen) for each in stored_dead_letters(seen_through)) == [
            ("not_json", 1)
        ] * len(BAD)


@contextmanager
def _dispatching(runtime: Runtime) -> Iterator[None]:
    """Run a dispatcher in a thread; a fault must not end it."""
    stopped = threading.Event()
    thread = threading.Thread(target=Dispatcher(runtime).run, args=(stopped.is_set,))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatcher, "IDLE_SWEEP_S", 0.1)
        patch.setattr(dispatcher, "OUTAGE_PAUSE_S", 0.1)
        thread.start()
        try:
            yield
            assert thread.is_alive(), "the dispatcher ended"
        finally:
            stopped.set()
            thread.join()


@contextmanager
def _in_this_process(runtime: Runtime) -> Iterator[None]:
    """Let jobs use the test's runtime and the state of a process that has just started."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drainer, "process_runtime", lambda: runtime)
        drainer._process_batch_size.cache_clear()
        drainer._process_breaker.cache_clear()
        drainer._process_poison.cache_clear()
        yield
