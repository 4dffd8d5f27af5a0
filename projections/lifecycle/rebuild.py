"""Rebuild: replaces a tenant's rows with the result of folding its event log again, in one transaction.

Most of the log is folded while drains continue (`refold.py`). Only the last transaction claims the partition: it folds
the rest, compares, and writes the rows that differ. docs/decisions/0029-rebuild-one-tenant-under-the-claim.md
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.exc import DBAPIError

from projections.database.bulk import delete_rows, insert_rows, upsert_rows
from projections.database.columns import Row
from projections.database.engines import disable_scans
from projections.database.idle_lock_holders import end_idle_lock_holders
from projections.database.paging import PAGE_ROWS, iter_tenant_rows
from projections.folding.projection import Model, Projection
from projections.lifecycle import pending_rebuilds
from projections.lifecycle.refold import Refold
from projections.transaction import checkpoint_table, projection_version


@dataclass(frozen=True, slots=True)
class Difference:
    """The rows of a tenant that differ from its log, in the order of their primary keys.

    `missing` rows are not stored, `extra` rows are stored by mistake, `changed` has pairs (stored row, correct row).
    """

    projection: Projection
    missing: list[Row]
    extra: list[Row]
    changed: list[tuple[Row, Row]]

    @property
    def table(self) -> Table:
        """The read model that differs."""
        return self.projection.table

    def __len__(self) -> int:
        return len(self.missing) + len(self.extra) + len(self.changed)


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """How a tenant's read models differed from its log, and for how many seconds its partition was claimed."""

    differences: list[Difference]
    lock_held_s: float


def replace(engine: Engine, refold: Refold) -> RebuildResult:
    """Write the rows that differ from a refold, and complete its pending rebuilds, in one transaction.

    Afterwards the rows have this release's version. Raises OutdatedReleaseError or the errors of `Refold.step`; then
    nothing has changed. If the process dies or the outcome of the commit is unknown, the pending rebuilds
    show whether it was done. Doing it again is harmless.
    """
    with _claimed(engine, refold) as connection:
        claimed_s = time.monotonic()
        differences = _differences(connection, refold)
        for difference in differences:
            _repair(connection, difference)
        projection_version.mark_current(connection, refold.tenant_id, refold.projections)
        pending_rebuilds.complete(connection, refold.tenant_id, [each.name for each in refold.projections])
    return RebuildResult(differences, time.monotonic() - claimed_s)


def compare(engine: Engine, refold: Refold) -> RebuildResult:
    """Return what `replace` would change, without changing it; the claim is held during the comparison."""
    with _claimed(engine, refold) as connection:
        claimed_s = time.monotonic()
        differences = _differences(connection, refold)
    return RebuildResult(differences, time.monotonic() - claimed_s)


def compare_up_to_date(engine: Engine, refold: Refold) -> RebuildResult:
    """Return what `compare` does, without projections whose rows are of another version, or incomplete."""
    with _claimed(engine, refold) as connection:
        claimed_s = time.monotonic()
        outdated = projection_version.outdated_projections(connection, refold.tenant_id, refold.projections)
        wrong = [each for each in _differences(connection, refold) if each.projection.name not in outdated]
    return RebuildResult(wrong, time.monotonic() - claimed_s)


@contextmanager
def _claimed(engine: Engine, refold: Refold) -> Iterator[Connection]:
    """Begin a transaction that holds the claim of the tenant's partition."""
    try:
        with engine.begin() as connection:
            disable_scans(connection)
            checkpoint_table.claim_current(connection, refold.partition)
            yield connection
    except DBAPIError as error:
        end_idle_lock_holders(engine, checkpoint_table.table, error)
        raise


def _differences(connection: Connection, refold: Refold) -> list[Difference]:
    is_complete = False
    while not is_complete:
        _, is_complete = refold.step(connection)
    pairs = zip(refold.projections, refold.models, strict=True)
    return [_difference(connection, projection, refold.tenant_id, model) for projection, model in pairs]


def _difference(connection: Connection, projection: Projection, tenant_id: str, model: Model) -> Difference:
    table = projection.table
    width = len(table.primary_key.columns)
    missing = {row[:width]: row for rows in model.values() for row in rows}
    found = Difference(projection, [], [], [])
    for stored in iter_tenant_rows(connection, table, tenant_id):
        rebuilt = missing.pop(stored[:width], None)
        if rebuilt is None:
            found.extra.append(stored)
        elif rebuilt != stored:
            found.changed.append((stored, rebuilt))
    found.missing.extend(sorted(missing.values()))  # a row begins with its primary key
    return found


def _repair(connection: Connection, difference: Difference) -> None:
    """Write the rows that differ, in steps, so that no statement takes long."""
    table = difference.table
    width = len(table.primary_key.columns)
    missing, changed = iter(difference.missing), iter(rebuilt for _, rebuilt in difference.changed)
    while rows := list(islice(missing, PAGE_ROWS)):
        insert_rows(connection, table, rows)
    while rows := list(islice(changed, PAGE_ROWS)):
        upsert_rows(connection, table, rows)
    delete_rows(connection, table, [row[:width] for row in difference.extra])
