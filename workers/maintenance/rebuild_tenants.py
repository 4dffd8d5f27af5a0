"""Rebuilds tenant by tenant: an outage is waited for, and what is wrong with one tenant stops that one only."""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Any, Literal

import structlog
from pydantic import BaseModel
from rq.timeouts import BaseTimeoutException
from sqlalchemy import Engine

from event_stream.event_types import partition_of
from projections.error_classes import ErrorClass, classify_error, describe
from projections.folding.projection import FoldError, Projection
from projections.lifecycle import pending_rebuilds
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.lifecycle.rebuild import Difference, Refold, ReplaceResult, compare, replace, verify
from projections.transaction import projection_version
from projections.transaction.projection_version import OutdatedReleaseError
from workers.errors import WorkersError

BACK_OFF_FIRST_S = 0.2
BACK_OFF_MAX_S = 5.0
SAMPLES_MAX = 10

_INTERRUPTIONS = (BaseTimeoutException,)

log = structlog.get_logger()


class UnknownProjectionError(WorkersError):
    """Another release has asked for a projection that this one does not know."""


class Sample(BaseModel):
    """One row that differs; of a changed one `columns` holds what is stored, and what the log gives."""

    read_model: str
    kind: Literal["missing", "extra", "changed"]
    key: tuple[Any, ...]
    columns: dict[str, tuple[Any, Any]] = {}


class TenantRebuild(BaseModel):
    """What became of a tenant. With an `error` its read models are as they were; else `held_s` is how long it took.

    `differed` counts for each read model the rows that were missing, extra and changed; `samples` shows some of them.
    `due` names the projections whose rows were to be rebuilt anyway, being of another version or behind.
    """

    tenant_id: str
    error: str | None = None
    held_s: float = 0.0
    differed: dict[str, dict[str, int]] = {}
    samples: list[Sample] = []
    due: frozenset[str] = frozenset()


_OTHER_RELEASE = (UnknownProjectionError, OutdatedReleaseError)


@dataclass
class Rebuilder:
    """Rebuilds tenants, one at a time. Any number may do so at once, also of one tenant.

    The first to finish a tenant replaces its rows; others that fold it stop at their next page of the log.

    Each tenant is a generator: after each page of the log it yields the number of events, and in the end its Outcome.
    It may be left alone in between for as long as one likes. An outage is waited for until nothing has gone for
    `timeout_s`; then what it raised is raised.
    """

    writer: Engine
    reader: Engine
    partitions: int
    projections: Sequence[Projection]
    timeout_s: float

    def rebuild_due(self, tenants: Iterable[str], asked: RebuildRequest) -> Iterator[int | TenantRebuild]:
        """Rebuild what is still due for each of these tenants; one with which somebody else was faster is left out."""
        for tenant_id in tenants:
            yield from self._finish(replace, tenant_id, partial(self._names_due, asked, tenant_id))

    def rebuild_outdated(self, tenants: Iterable[str]) -> Iterator[int | TenantRebuild]:
        """Rebuild what of these tenants' rows is of another version than this release's, or behind."""
        for tenant_id in tenants:
            yield from self._finish(replace, tenant_id, partial(self._names_outdated, tenant_id))

    def compare(self, tenants: Iterable[str]) -> Iterator[int | TenantRebuild]:
        """Tell what a rebuild of all projections would change, and change nothing."""
        for tenant_id in tenants:
            yield from self._finish(compare, tenant_id, self._names)

    def verify(self, tenants: Iterable[str]) -> Iterator[int | TenantRebuild]:
        """Tell what is wrong in rows that are not due to be rebuilt, and change nothing."""
        for tenant_id in tenants:
            yield from self._finish(verify, tenant_id, self._names)

    def _finish(
        self,
        finish: Callable[[Engine, Refold], ReplaceResult],
        tenant_id: str,
        read_names: Callable[[], frozenset[str]],
    ) -> Iterator[int | TenantRebuild]:
        moved_s, failures = time.monotonic(), 0
        refolding: Refold | None = None
        while True:
            try:
                if refolding is None or refolding.spoilt:
                    refolding = self._refolding(tenant_id, read_names())
                if not refolding.projections:
                    return
                for events in self._pages(refolding):
                    yield events
                    moved_s, failures = time.monotonic(), 0
                    if not read_names():
                        return
                yield _done(tenant_id, finish(self.writer, refolding))
                break
            except BaseTimeoutException:
                raise
            except Exception as error:
                if isinstance(error, _OTHER_RELEASE) or classify_error(error, _INTERRUPTIONS) is ErrorClass.INTERNAL:
                    yield TenantRebuild(tenant_id=tenant_id, error=_named(error))
                    return
                if time.monotonic() - moved_s > self.timeout_s:
                    raise
                failures += 1
                log.warning("rebuild.outage", error=describe(error), failures=failures)
                time.sleep(_back_off_s(failures))

    def _names_due(self, asked: RebuildRequest, tenant_id: str) -> frozenset[str]:
        with self.reader.connect() as connection:
            return pending_rebuilds.of_tenant(connection, tenant_id, asked)

    def _names_outdated(self, tenant_id: str) -> frozenset[str]:
        with self.reader.connect() as connection:
            standings = projection_version.of_tenant(connection, tenant_id, self.projections)
        return self._names() - projection_version.live_in(standings, self.projections)

    def _names(self) -> frozenset[str]:
        return frozenset(projection.name for projection in self.projections)

    def _pages(self, refolding: Refold) -> Iterator[int]:
        """Fold until less than a page is left; yields the number of events of each page."""
        is_last = False
        while not is_last:
            with self.reader.connect() as connection:
                events, is_last = refolding.step(connection)
            yield events

    def _refolding(self, tenant_id: str, names: frozenset[str]) -> Refold:
        projections = [projection for projection in self.projections if projection.name in names]
        if unknown := names - self._names():
            raise UnknownProjectionError(
                f"due is {', '.join(sorted(unknown))}, which this release does not have; --restart forgets it"
            )
        return Refold(projections, tenant_id, partition_of(tenant_id, self.partitions))


def _done(tenant_id: str, replaced: ReplaceResult) -> TenantRebuild:
    outcome = TenantRebuild(tenant_id=tenant_id, held_s=replaced.held_s, due=replaced.due)
    for each in replaced.differences:
        outcome.differed[each.table.name] = {
            "missing": len(each.missing),
            "extra": len(each.extra),
            "changed": len(each.changed),
        }
        outcome.samples += islice(_samples(each), SAMPLES_MAX - len(outcome.samples))
    return outcome


def _samples(difference: Difference) -> Iterator[Sample]:
    table = difference.table
    key_of = itemgetter(slice(len(table.primary_key.columns)))
    yield from (Sample(read_model=table.name, kind="missing", key=key_of(row)) for row in difference.missing)
    yield from (Sample(read_model=table.name, kind="extra", key=key_of(row)) for row in difference.extra)
    for stored, rebuilt in difference.changed:
        both = zip(table.columns.keys(), stored, rebuilt, strict=True)
        columns = {name: (old, new) for name, old, new in both if old != new}
        yield Sample(read_model=table.name, kind="changed", key=key_of(stored), columns=columns)


def _named(error: Exception) -> str:
    """Return what an error says, with the event that it is about."""
    if isinstance(error, FoldError):
        event = error.event
        return f"event {event.id} of tenant {event.tenant_id}: {describe(error)}"
    return describe(error)


def _back_off_s(failures: int) -> float:
    longest_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2.0 ** min(failures - 1, 10))
    return random.uniform(0.5, 1.0) * longest_s  # noqa: S311 (spreads retries, no secret)
