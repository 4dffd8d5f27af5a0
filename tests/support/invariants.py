"""What must hold after every fault: each event counts once, answers equal the oracle's, every entry is accounted for (G1)."""

from collections.abc import Iterable
from typing import Any

from event_stream.streams.entries import Position
from tests.support.api_client import count_equal_answers
from tests.support.events import NOW_US
from tests.support.harness import (
    assert_dead_letters_are_counted,
    checkpoints,
    drain_all,
    dump,
    log_size,
    stored_dead_letters,
    totals,
)
from tests.support.oracle import Oracle, identity
from workers.drain.drainer import Drainer, needs_drain
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime


class CheckpointObserver:
    """Observes the checkpoints repeatedly: within an epoch they may only move forward."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._seen: dict[int, tuple[int, Position]] = {}

    def observe(self) -> None:
        for at in checkpoints(self.runtime):
            place = (at.epoch, at.position)
            assert self._seen.get(at.partition, place) <= place
            self._seen[at.partition] = place

    def step(self, drainer: Drainer) -> bool:
        """Run one step of a drain; returns whether it reached the end."""
        is_dry = drainer.step()
        self.observe()
        return is_dry

    def drain(self) -> None:
        """Drain what is left, and check that no partition needs another drain."""
        self.observe()
        drain_all(self.runtime)
        self.observe()
        ends = self.runtime.stream.ends()
        assert not [at for at in checkpoints(self.runtime) if needs_drain(at, ends[at.partition])]


def assert_counters_add_up(runtime: Runtime) -> None:
    """Check the counters against those of Redis, and `status` against both; everything must be drained."""
    ends = runtime.stream.ends()
    reported = read_status(runtime).partitions
    for at, end, status in zip(checkpoints(runtime), ends, reported, strict=True):
        assert at.read == at.applied + at.duplicates + at.dead_lettered
        assert status.added == status.read + status.in_flight + status.lost
        assert (status.read, status.lost, status.in_flight, status.lag_entries) == (at.read, at.lost, 0, 0)
        if end.added:  # a deleted stream has no counter
            assert at.added_offset + end.added == at.read + at.lost


def assert_counted_once(runtime: Runtime, events: Iterable[dict[str, Any]]) -> None:
    """Check that exactly these events, all valid, were accepted once each, and that the answers show it."""
    assert stored_dead_letters(runtime) == []
    _assert_accepted(runtime, events)


def assert_fully_projected(
    runtime: Runtime, events: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> dict[str, int]:
    """Check that these events count once each and that nothing is in flight or lost; return the counters."""
    assert_counters_add_up(runtime)
    assert_dead_letters_are_counted(runtime)
    for at, end in zip(checkpoints(runtime), runtime.stream.ends(), strict=True):
        assert end.position is None or at.position == end.position
    counted = totals(runtime)
    assert counted["lost"] == 0
    _assert_accepted(runtime, events, now_us, hours)
    return counted


def assert_reads_equal(
    runtime: Runtime, events: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> None:
    """Compare both reads of every project that these events name with the oracle."""
    oracle = Oracle(events)
    assert count_equal_answers(runtime, oracle, now_us, hours) >= len(oracle.projects()) > 0


def _assert_accepted(
    runtime: Runtime, events: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> None:
    made = {identity(event): event for event in events}
    assert (totals(runtime)["applied"], log_size(runtime.reader)) == (len(made), len(made))
    tenants = {tenant for tenant, _ in made}
    assert {row[0] for rows in dump(runtime.reader).values() for row in rows} <= tenants
    assert_reads_equal(runtime, made.values(), now_us, hours)
