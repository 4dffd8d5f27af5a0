"""Verification of chosen tenants: compares rows with the event log, repairs, and publishes the result."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from redis import Redis

from event_stream.event_types import partition_of
from projections.database.engines import audit_engine
from projections.lifecycle import pending_rebuilds
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.read_models.registry import PROJECTIONS
from workers.maintenance import verify_results
from workers.maintenance.rebuild_tenants import Rebuilder, TenantRebuild
from workers.maintenance.verify_checksums import Miscount, Verifier
from workers.maintenance.verify_results import Means

STATEMENT_S = 600.0


@dataclass
class Verification:
    """What was verified so far and what was wrong; of the tenants that were, `mended` are right by now.

    Of those that are `due` some rows are of another release, or lack events; these rows are not compared. Tenants in
    `failed` could not be compared or repaired, each with the error. Those `beyond_repair` are on a partition whose log
    is not whole: a rebuild would remove from the rows what the log has lost.
    """

    verifier: Verifier
    rebuilder: Rebuilder
    due: set[str] = field(default_factory=set)
    rows: dict[str, dict[Means, int]] = field(default_factory=dict)
    miscounts: dict[str, list[Miscount]] = field(default_factory=dict)
    logs: dict[int, str | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    beyond_repair: set[str] = field(default_factory=set)

    @classmethod
    def on(cls, rebuilder: Rebuilder, due_anyway: set[str]) -> Self:
        """Return a verification of the rebuilder's projections, with an engine of its own for long statements."""
        auditor = audit_engine(rebuilder.writer.url, STATEMENT_S)
        return cls(Verifier(auditor, rebuilder.projections, rebuilder.timeout_s), rebuilder, due_anyway)

    @property
    def is_whole(self) -> bool:
        """Whether all read models are compared."""
        return len(self.verifier.projections) == len(PROJECTIONS)

    @property
    def is_wrong(self) -> bool:
        """Whether anything is wrong, or could not be verified."""
        return bool(self.wrong - self.mended or any(self.logs.values()) or self.failed or self.due)

    def compare(self, tenants: Sequence[str], folded: Sequence[str]) -> Iterator[int | TenantRebuild]:
        """Compare sums for all logs and tenants, and also fold the events of the tenants in `folded`.

        Yields the events of each page that was folded, 0 for other steps, and the outcome of each folded tenant.
        """
        for partition in range(self.rebuilder.partitions):
            self.logs[partition] = self.verifier.log_fault(partition)
            yield 0
        to_fold = set(folded)
        for tenant_id in tenants:
            found = self.verifier.miscounts(tenant_id)
            if found:
                self.miscounts[tenant_id] = found
            rows: dict[Means, int] = {"sums": len(found)}
            for each in self.rebuilder.verify([tenant_id]) if tenant_id in to_fold else ():
                if isinstance(each, TenantRebuild) and each.error is not None:
                    self.failed[tenant_id] = each.error
                elif isinstance(each, TenantRebuild):
                    rows["rows"] = sum(sum(counts.values()) for counts in each.differed.values())
                yield each
            self.rows[tenant_id] = rows
            if any(rows.values()):
                self.wrong.add(tenant_id)
            yield 0

    def repair(self) -> Iterator[None]:
        """Rebuild the tenants that are wrong, except on partitions whose log is not whole; yields after each step."""
        partitions = self.rebuilder.partitions
        damaged = {partition for partition, fault in self.logs.items() if fault}
        damaged |= {partition_of(tenant_id, partitions) for tenant_id in self.failed}
        for tenant_id in sorted(self.wrong):
            if partition_of(tenant_id, partitions) in damaged:
                self.beyond_repair.add(tenant_id)
                continue
            asked = RebuildRequest(tenant_id=tenant_id)
            with self.rebuilder.writer.begin() as connection:
                pending_rebuilds.plan(
                    connection, asked, self.rebuilder.projections, [tenant_id], time.time_ns() // 1000
                )
            for each in self.rebuilder.rebuild_due([tenant_id], asked):
                if isinstance(each, TenantRebuild) and each.error is not None:
                    self.failed[tenant_id] = each.error
                yield
            if tenant_id not in self.failed and not self.verifier.miscounts(tenant_id):
                self.mended.add(tenant_id)

    def publish(self, redis: Redis) -> None:
        """Store the result in Redis for `status`, health and metrics; raises RedisError."""
        known = verify_results.read_wrong(redis)
        for tenant_id in (self.wrong | known) & self.rows.keys():
            rows = self.rows[tenant_id]
            if tenant_id in self.mended:
                rows = dict.fromkeys(rows, 0)
            # Verifying one read model shows what is wrong in it, not that the others are right.
            verify_results.note_tenant(
                redis, tenant_id, rows if self.is_whole else {k: n for k, n in rows.items() if n}
            )
        for partition, fault in self.logs.items():
            verify_results.note_log(redis, partition, fault)
