"""Rebuilds, compares or verifies the read models of tenants, one tenant at a time.

An outage is retried. Any other error is reported in the result of its tenant, and the next tenant follows.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
from redis.backoff import EqualJitterBackoff
from rq.timeouts import BaseTimeoutException
from sqlalchemy import Engine

from event_stream.events.event import partition_of
from projections.error_classes import ErrorClass, classify_error, describe
from projections.folding.projection import FoldError, Projection
from projections.lifecycle import pending_rebuilds
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.lifecycle.rebuild import RebuildResult, compare, compare_up_to_date, replace
from projections.lifecycle.refold import Refold
from projections.transaction import projection_state, projection_version
from projections.transaction.projection_state import OutdatedReleaseError
from workers.errors import WorkersError
from workers.maintenance.rebuild_results import TenantRebuild

RETRY_DELAY_FIRST_S = 0.2
RETRY_DELAY_MAX_S = 5.0

log = structlog.get_logger()


class UnknownProjectionError(WorkersError):
    """A rebuild is pending for a projection that this release does not have."""


_OTHER_RELEASE = (UnknownProjectionError, OutdatedReleaseError)
_INTERRUPTIONS = (BaseTimeoutException,)


@dataclass
class Rebuilder:
    """Rebuilds tenants from the event log, one at a time.

    Several processes may rebuild at once, even the same tenant. The first to finish a tenant replaces its rows; the
    others stop folding it at the end of their current page.

    Each method is a generator. It yields the number of events after each page of the log, and a TenantRebuild at the
    end of each tenant. Nothing is locked between two items, so the caller may pause. An outage is retried until nothing
    has succeeded for `timeout_s`; then the last error is raised.
    """

    writer: Engine
    reader: Engine
    partitions: int
    projections: Sequence[Projection]
    timeout_s: float

    def rebuild_pending(self, tenants: Iterable[str], request: RebuildRequest) -> Iterator[int | TenantRebuild]:
        """Rebuild what is still pending under a request; skips tenants that another process has finished."""
        for tenant_id in tenants:
            yield from self._refold(replace, tenant_id, partial(self._read_pending, request, tenant_id))

    def rebuild_outdated(self, tenants: Iterable[str]) -> Iterator[int | TenantRebuild]:
        """Rebuild the rows that have another version than this release's, or lack events."""
        for tenant_id in tenants:
            yield from self._refold(replace, tenant_id, partial(self._read_outdated, tenant_id))

    def compare(self, tenants: Iterable[str]) -> Iterator[int | TenantRebuild]:
        """Report what a rebuild of all projections would change, without changing anything."""
        for tenant_id in tenants:
            yield from self._refold(compare, tenant_id, self._all_names)

    def verify(self, tenants: Iterable[str]) -> Iterator[int | TenantRebuild]:
        """Report differences in rows for which no rebuild is pending, without changing anything."""
        for tenant_id in tenants:
            yield from self._refold(compare_up_to_date, tenant_id, self._all_names)

    def _refold(
        self,
        finish: Callable[[Engine, Refold], RebuildResult],
        tenant_id: str,
        read_names: Callable[[], frozenset[str]],
    ) -> Iterator[int | TenantRebuild]:
        """Fold a tenant's events for the projections that `read_names` returns, then call `finish`; retry outages."""
        progress_s, failures = time.monotonic(), 0
        refold: Refold | None = None
        while True:
            try:
                if refold is None or refold.must_restart:
                    refold = self._new_refold(tenant_id, read_names())
                if not refold.projections:
                    return
                for events in self._fold_pages(refold):
                    yield events
                    progress_s, failures = time.monotonic(), 0
                    if not read_names():
                        return
                yield TenantRebuild.of(tenant_id, finish(self.writer, refold))
                break
            except BaseTimeoutException:
                raise
            except Exception as error:
                if isinstance(error, _OTHER_RELEASE) or classify_error(error, _INTERRUPTIONS) is ErrorClass.INTERNAL:
                    yield TenantRebuild(tenant_id=tenant_id, error=_describe_with_event(error))
                    return
                if time.monotonic() - progress_s > self.timeout_s:
                    raise
                failures += 1
                log.warning("rebuild.outage", error=describe(error), failures=failures)
                time.sleep(_retry_delay_s(failures))

    def _read_pending(self, request: RebuildRequest, tenant_id: str) -> frozenset[str]:
        with self.reader.connect() as connection:
            return pending_rebuilds.read_for_tenant(connection, tenant_id, request)

    def _read_outdated(self, tenant_id: str) -> frozenset[str]:
        with self.reader.connect() as connection:
            states = projection_version.read_states(connection, tenant_id, self.projections)
        return self._all_names() - projection_state.up_to_date(states, self.projections)

    def _all_names(self) -> frozenset[str]:
        return frozenset(projection.name for projection in self.projections)

    def _fold_pages(self, refold: Refold) -> Iterator[int]:
        """Fold the log up to its last page; yields the number of events of each page."""
        is_last = False
        while not is_last:
            with self.reader.connect() as connection:
                events, is_last = refold.step(connection)
            yield events

    def _new_refold(self, tenant_id: str, names: frozenset[str]) -> Refold:
        projections = [projection for projection in self.projections if projection.name in names]
        if unknown := names - self._all_names():
            raise UnknownProjectionError(
                f"a rebuild of {', '.join(sorted(unknown))} is pending, which this release does not have; run the"
                " release that has it, or begin again with --restart"
            )
        return Refold(projections, tenant_id, partition_of(tenant_id, self.partitions))


def _describe_with_event(error: Exception) -> str:
    """Return the text of an error, with the event that could not be folded."""
    if isinstance(error, FoldError):
        event = error.event
        return f"event {event.id} of tenant {event.tenant_id}: {describe(error)}"
    return describe(error)


def _retry_delay_s(failures: int) -> float:
    return EqualJitterBackoff(RETRY_DELAY_MAX_S, RETRY_DELAY_FIRST_S).compute(min(failures - 1, 10))
