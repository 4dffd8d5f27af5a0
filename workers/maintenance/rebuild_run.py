"""Runs: a rebuild or a comparison of many tenants, in one or more processes."""

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from projections.lifecycle import pending_rebuilds, tenant_data
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.transaction import projection_version
from workers.maintenance.parallel import TenantTask, run_parallel
from workers.maintenance.rebuild_results import TenantRebuild
from workers.maintenance.rebuild_tenants import Rebuilder


@dataclass(frozen=True)
class RebuildRun:
    """A task for many tenants. `read_pending` reads the tenants that still need it; a comparison leaves none.

    `continued_us` is set if the run continues an unfinished rebuild: the time at which that one was requested.
    """

    rebuilder: Rebuilder
    task: TenantTask
    tenants: Sequence[str]
    read_pending: Callable[[Connection], Collection[str]] | None = None
    continued_us: int | None = None

    def results(self, processes: int) -> AbstractContextManager[Iterator[int | TenantRebuild]]:
        """Return the block in which the processes run; see `run_parallel`."""
        return run_parallel(self.rebuilder, self.task, self.tenants, processes)

    def count_events(self) -> int:
        """Return how many events of the log the tenants have."""
        with self.rebuilder.reader.connect() as connection:
            return sum(tenant_data.count_events(connection, tenant_id) for tenant_id in self.tenants)

    def count_pending(self, finished: int) -> int:
        """Return how many tenants are left; if the database cannot be read, all but the number `finished`."""
        if self.read_pending is None:
            return 0
        try:
            with self.rebuilder.reader.connect() as connection:
                return len(self.read_pending(connection))
        except SQLAlchemyError:
            return len(self.tenants) - finished


def compare(rebuilder: Rebuilder, tenants: Sequence[str]) -> RebuildRun:
    """Return a run that reports what a rebuild would change, and changes nothing."""
    return RebuildRun(rebuilder, Rebuilder.compare, tenants)


def start_or_continue(
    rebuilder: Rebuilder, request: RebuildRequest, tenants: Sequence[str], *, restart: bool
) -> RebuildRun:
    """Return a run for a request. It continues an unfinished run of the request, or else covers all `tenants`.

    With `restart`, an unfinished run is forgotten.
    """
    with rebuilder.writer.begin() as connection:
        continued_us = None if restart else pending_rebuilds.requested_us(connection, request)
        if continued_us is None:
            now_us = time.time_ns() // 1000
            pending_rebuilds.plan(connection, request, rebuilder.projections, tenants, now_us)
        pending = list(pending_rebuilds.read(connection, request))
    return RebuildRun(
        rebuilder,
        partial(Rebuilder.rebuild_pending, request=request),
        _shuffled(pending),
        lambda connection: pending_rebuilds.read(connection, request),
        continued_us,
    )


def rebuild_outdated(rebuilder: Rebuilder) -> RebuildRun:
    """Return a run that rebuilds the rows that another release made, or that lack events."""

    def read_outdated(connection: Connection) -> list[str]:
        return projection_version.outdated_tenants(connection, rebuilder.projections)

    with rebuilder.reader.connect() as connection:
        tenants = read_outdated(connection)
    return RebuildRun(rebuilder, Rebuilder.rebuild_outdated, _shuffled(tenants), read_outdated)


def _shuffled(tenants: Sequence[str]) -> list[str]:
    """Return the tenants in random order, so that runs on several hosts rarely work on the same tenant."""
    return random.sample(tenants, len(tenants))
