"""A deployment at work in this process, a fault at a named point of it, and what must hold once the fault is over.

work = Work.load(runtime)               events of all types, a repeat and bad entries wait in the streams
strike(monkeypatch, "after fold", fault)     `fault()` will run there, once, in the middle of a transaction
work.until_dry()                        a real dispatcher and real RQ workers, until nothing is left; nobody helps
work.assert_whole()                     each event counts once: by the oracle, Redis's own count, and the letters
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy.exc import SQLAlchemyError
from structlog.testing import capture_logs

from event_stream.event_types import partition_of
from projections.transaction.checkpoint import Checkpoint
from tests.support.driving import append, append_raw, checkpoints, letters
from tests.support.events import body, mixed
from tests.support.law import assert_all_is_well
from tests.support.servers import wait_until
from workers.dispatch import dispatcher
from workers.dispatch.dispatcher import Dispatcher
from workers.dispatch.rq_worker import worker
from workers.drain import drainer
from workers.drain.drainer import needs_drain
from workers.runtime import Runtime

EVENTS = 600  # so that the third batch of a partition is one of many
BAD = (b"nonsense", b"other nonsense")


@dataclass
class Work:
    """What was appended, and what was seen while it was projected."""

    runtime: Runtime
    made: list[dict[str, Any]]
    logs: list[Any] = field(default_factory=list)
    highest: list[Checkpoint] = field(default_factory=list)
    ending: threading.Thread | None = None

    @classmethod
    def load(cls, runtime: Runtime, count: int = EVENTS) -> "Work":
        """Append events of several tenants, one of them twice, and entries that can never be applied."""
        made = list(mixed(count, tenants=4, projects=3))
        append(runtime, *made)
        home = partition_of(str(made[0]["tenantid"]), runtime.stream.partitions)
        append_raw(runtime, home, *BAD, body(made[0]))
        return cls(runtime, made)

    def until_dry(self, timeout_s: float = 60) -> None:
        """Dispatch and drain until nothing is left; nobody lends a hand."""
        with capture_logs() as self.logs, _dispatching(self.runtime), _in_this_process(self.runtime):
            wait_until(self._drained, "nothing is left to drain", timeout_s)
        if self.ending is not None:
            self.ending.join()

    def _drained(self) -> bool:
        worker(self.runtime).work(burst=True, max_jobs=8, logging_level="CRITICAL")
        try:
            found = checkpoints(self.runtime)
        except SQLAlchemyError:
            return False
        for before, at in zip(self.highest, found, strict=bool(self.highest)):
            assert (at.epoch, at.position) >= (before.epoch, before.position), "a checkpoint went back"
        self.highest = found
        ends = self.runtime.stream.ends()
        return not any(needs_drain(at, end) for at, end in zip(found, ends, strict=True))

    def end_when_noticed(self, end: Callable[[], object]) -> None:
        """Let `end` end a fault, beside the work, as soon as a drain has failed by it."""

        def wait_and_end() -> None:
            try:
                wait_until(self.failures, "a drain fails")
            finally:
                end()

        self.ending = threading.Thread(target=wait_and_end)
        self.ending.start()

    def failures(self) -> list[str]:
        """Return what the drains said of their failures; each must have been held against the world, not an event."""
        found = [each for each in self.logs if each["event"] == "drain.failed"]
        assert {each["fault"] for each in found} <= {"external"}
        return [str(each["error"]) for each in found]

    def dispatcher_outages(self) -> list[str]:
        """Return what the dispatcher said of outages."""
        return [str(each["error"]) for each in self.logs if each["event"] == "dispatcher.outage"]

    def assert_whole(self, runtime: Runtime | None = None) -> None:
        """Assert that each event counts once, that no letter came of the fault, and that no checkpoint went back."""
        seen_through = runtime or self.runtime
        counted = assert_all_is_well(seen_through, self.made)
        assert (counted["duplicates"], counted["dead_lettered"]) == (1, len(BAD))
        assert {at.epoch for at in checkpoints(seen_through)} == {0}
        assert sorted((each.reason, each.times_seen) for each in letters(seen_through)) == [("not_json", 1)] * len(BAD)


@contextmanager
def _dispatching(runtime: Runtime) -> Iterator[None]:
    """Run a dispatcher beside; a fault must not end it."""
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
    """Let jobs use the test's runtime, with the memory of a process that has just begun."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drainer, "process_runtime", lambda: runtime)
        drainer._pace_of.cache_clear()
        drainer._process_breaker.cache_clear()
        yield
