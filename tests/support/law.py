"""The law that holds after every fault: each event once, answers as the oracle's, every entry accounted for (G1)."""

from collections.abc import Iterable
from functools import partial
from typing import Any

import anyio

from event_stream.stream import Position
from tests.support.driving import Api, assert_answers_equal, checkpoints, drain_all, letters
from tests.support.oracle import Oracle
from workers.drain import Drainer, needs_drain
from workers.runtime import Runtime
from workers.status import read_status


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
        assert at.read == at.applied + at.duplicates + at.parked
        assert status.added == status.read + status.in_flight + status.lost
        assert (status.read, status.lost, status.in_flight, status.lag_entries) == (at.read, at.lost, 0, 0)
        if end.added:  # a stream that is gone says nothing
            assert at.added_before + end.added == at.read + at.lost


def assert_counted_once(runtime: Runtime, events: Iterable[dict[str, Any]]) -> None:
    """Check that these events, all valid, were accepted once each, that no other was, and that the answers say so."""
    oracle, accepted = Oracle(), list(events)
    for each in accepted:
        oracle.add(each)
    assert letters(runtime) == []
    assert sum(at.applied for at in checkpoints(runtime)) == len(accepted)
    api = Api(runtime.writer, runtime.reader)
    keys = {tenant: api.key(tenant) for tenant, _ in oracle.projects()}

    async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
        response = await api.ask(path, keys[tenant], **headers)
        if response.status_code == 404:
            return None
        assert response.status_code == 200, response.text
        return response.json()["data"]

    try:
        assert anyio.run(partial(assert_answers_equal, oracle, ask, lambda: api.now_us)) > 0
    finally:
        api.close()
