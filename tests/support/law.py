"""The law that holds after every fault: each event once, answers as the oracle's, every entry accounted for (G1)."""

from collections.abc import Iterable
from typing import Any

from event_stream.entries import Position
from tests.support.driving import checkpoints, count_equal_answers, drain_all, dump, letters, log_size, totals
from tests.support.events import NOW_US
from tests.support.oracle import Oracle
from workers.drain.drainer import Drainer, needs_drain
from workers.reporting.status import read_status
from workers.runtime import Runtime


class Witness:
    """Looks at the checkpoints again and again: within an epoch they may only move forward."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._seen: dict[int, tuple[int, Position]] = {}

    def look(self) -> None:
        for at in checkpoints(self.runtime):
            place = (at.epoch, at.position)
            assert self._seen.get(at.partition, place) <= place
            self._seen[at.partition] = place

    def step(self, drainer: Drainer) -> bool:
        """Let a drain make one step; returns whether it has reached the end."""
        is_dry = drainer.step()
        self.look()
        return is_dry

    def drain(self) -> None:
        """Drain what is left, and see that nothing rings then."""
        self.look()
        drain_all(self.runtime)
        self.look()
        ends = self.runtime.stream.ends()
        assert not [at for at in checkpoints(self.runtime) if needs_drain(at, ends[at.partition])]


def assert_law(runtime: Runtime) -> None:
    """Check, once everything is drained, the counters against Redis's own, and `status` against both."""
    ends = runtime.stream.ends()
    told = read_status(runtime).partitions
    for at, end, status in zip(checkpoints(runtime), ends, told, strict=True):
        assert at.read == at.applied + at.duplicates + at.dead_lettered
        assert status.added == status.read + status.in_flight + status.lost
        assert (status.read, status.lost, status.in_flight, status.lag_entries) == (at.read, at.lost, 0, 0)
        if end.added:  # a stream that is gone says nothing
            assert at.added_offset + end.added == at.read + at.lost


def assert_counted_once(runtime: Runtime, events: Iterable[dict[str, Any]]) -> None:
    """Check that these events, all valid, were accepted once each, that no other was, and that the answers say so."""
    assert letters(runtime) == []
    _assert_accepted(runtime, events)


def assert_all_is_well(
    runtime: Runtime, events: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> dict[str, int]:
    """Check that these events count once each and that nothing is under way or lost; return the counters."""
    assert_law(runtime)
    for at, end in zip(checkpoints(runtime), runtime.stream.ends(), strict=True):
        assert end.position is None or at.position == end.position
    counted = totals(runtime)
    assert counted["lost"] == 0
    _assert_accepted(runtime, events, now_us, hours)
    return counted


def assert_reads_equal(
    runtime: Runtime, events: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> None:
    """Check both answers of every project that these events name, at a moment, against the oracle."""
    oracle = Oracle(events)
    assert count_equal_answers(runtime, oracle, now_us, hours) >= len(oracle.projects()) > 0


def _assert_accepted(
    runtime: Runtime, events: Iterable[dict[str, Any]], now_us: int = NOW_US, hours: int = 720
) -> None:
    made = {(event["tenantid"], event["id"]): event for event in events}
    assert (totals(runtime)["applied"], log_size(runtime.reader)) == (len(made), len(made))
    tenants = {tenant for tenant, _ in made}
    assert {row[0] for rows in dump(runtime.reader).values() for row in rows} <= tenants
    assert_reads_equal(runtime, made.values(), now_us, hours)
