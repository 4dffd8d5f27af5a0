"""Rebuilds tenant by tenant: an outage is waited for, and what is wrong with one tenant stops that one only."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import structlog
from rq.timeouts import BaseTimeoutException
from sqlalchemy import Engine

from event_stream.types import partition_of
from projections import due
from projections.due import Asked
from projections.faults import Fault, describe, fault_of
from projections.projection import FoldError, Projection
from projections.rebuild import Refolding, Replaced, compare, replace

BACK_OFF_FIRST_S = 0.2
BACK_OFF_MAX_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a tenant; `replaced` is None, and `error` says why, if its read models are as they were."""

    tenant_id: str
    replaced: Replaced | None
    error: str | None = None


@dataclass
class Rebuilder:
    """Rebuilds tenants, one at a time. Any number may do so at once, also of one tenant.

    `on_page` is called with the number of events after each page. An outage is waited for until nothing has gone for
    `timeout_s`; then what it raised is raised.
    """

    writer: Engine
    reader: Engine
    partitions: int
    projections: Sequence[Projection]
    timeout_s: float
    on_page: Callable[[int], None] = lambda _: None

    def rebuild_due(self, asked: Asked, tenants: Iterable[str]) -> Iterator[Outcome]:
        """Rebuild what is still due for each of these tenants; one of which somebody else was faster is left out."""
        for tenant_id in tenants:
            with self.reader.connect() as connection:
                names = due.of_tenant(connection, tenant_id, asked)
            if names:
                yield self.rebuild(tenant_id, names)

    def rebuild(self, tenant_id: str, names: frozenset[str]) -> Outcome:
        """Replace a tenant's read models of these names."""
        return self._finish(replace, tenant_id, names)

    def compare(self, tenant_id: str, names: frozenset[str]) -> Outcome:
        """Tell what `rebuild` would change, and change nothing."""
        return self._finish(compare, tenant_id, names)

    def _finish(
        self, finish: Callable[[Engine, Refolding], Replaced], tenant_id: str, names: frozenset[str]
    ) -> Outcome:
        moved_s, failures = time.monotonic(), 0
        refolding = self._refolding(tenant_id, names)
        while True:
            try:
                for events in self._pages(refolding):
                    moved_s, failures = time.monotonic(), 0
                    self.on_page(events)
                return Outcome(tenant_id, finish(self.writer, refolding))
            except BaseTimeoutException:
                raise
            except Exception as error:
                if fault_of(error, interruptions=(BaseTimeoutException,)) is Fault.OURS:
                    return Outcome(tenant_id, None, _named(error))
                if time.monotonic() - moved_s > self.timeout_s:
                    raise
                failures += 1
                log.warning("rebuild.outage", error=describe(error), failures=failures)
                time.sleep(_back_off_s(failures))
                if refolding.spoilt:
                    refolding = self._refolding(tenant_id, names)

    def _pages(self, refolding: Refolding) -> Iterator[int]:
        """Fold until less than a page is left; yields the number of events of each page."""
        is_last = False
        while not is_last:
            with self.reader.connect() as connection:
                events, is_last = refolding.step(connection)
            yield events

    def _refolding(self, tenant_id: str, names: frozenset[str]) -> Refolding:
        projections = [projection for projection in self.projections if projection.name in names]
        return Refolding(projections, tenant_id, partition_of(tenant_id, self.partitions))


def _named(error: Exception) -> str:
    """Return what an error says, with the event that it is about."""
    if isinstance(error, FoldError):
        event = error.event
        return f"event {event.id} of tenant {event.tenant_id}: {describe(error)}"
    return describe(error)


def _back_off_s(failures: int) -> float:
    longest_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** min(failures - 1, 10))
    return random.uniform(0.5, 1.0) * longest_s  # noqa: S311 (spreads retries, no secret)
