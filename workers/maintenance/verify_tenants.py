"""Verifies chosen tenants for `projector verify`: compares, repairs, and publishes the results."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from redis import Redis

from event_stream.events.event import partition_of
from projections.database.engines import audit_engine
from projections.lifecycle import pending_rebuilds
from projections.lifecycle.pending_rebuilds import RebuildRequest
from projections.lifecycle.verify import RowMismatch
from projections.read_models.registry import PROJECTIONS
from workers.maintenance import verify_pass, verify_results
from workers.maintenance.rebuild_results import TenantRebuild
from workers.maintenance.rebuild_tenants import Rebuilder
from workers.maintenance.verify_checksums import ChecksumVerifier
from workers.maintenance.verify_results import Method

STATEMENT_TIMEOUT_S = 600.0


@dataclass
class TenantVerification:
    """The verification of chosen tenants, and its results so far.

    rebuild_pending: tenants with rows of another version, or rows that lack events; those rows are not compared.
    differing_rows: the number of rows that differ, for each verified tenant and method.
    log_errors: for each partition what is missing in its log, or None.
    failed: tenants that could not be compared or repaired, each with the error.
    mismatched: tenants with rows that differ; those in `repaired` are correct now.
    unrepairable: tenants on a partition whose log is incomplete. A rebuild would remove the events that the log has
        lost from their rows.
    """

    verifier: ChecksumVerifier
    rebuilder: Rebuilder
    rebuild_pending: set[str] = field(default_factory=set)
    differing_rows: dict[str, dict[Method, int]] = field(default_factory=dict)
    checksum_mismatches: dict[str, list[RowMismatch]] = field(default_factory=dict)
    log_errors: dict[int, str | None] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    mismatched: set[str] = field(default_factory=set)
    repaired: set[str] = field(default_factory=set)
    unrepairable: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, rebuilder: Rebuilder, rebuild_pending: set[str]) -> Self:
        """Return a verification of the rebuilder's projections, with an engine of its own for long statements."""
        engine = audit_engine(rebuilder.writer.url, STATEMENT_TIMEOUT_S)
        return cls(ChecksumVerifier(engine, rebuilder.projections, rebuilder.timeout_s), rebuilder, rebuild_pending)

    @property
    def has_problems(self) -> bool:
        """Whether anything is wrong, or could not be verified."""
        return bool(
            self.mismatched - self.repaired or any(self.log_errors.values()) or self.failed or self.rebuild_pending
        )

    def compare(self, tenants: Sequence[str], folded: Sequence[str]) -> Iterator[int | TenantRebuild]:
        """Compare the checksums of all logs and tenants, and fold the events of the tenants in `folded`.

        Yields the number of events of each page that was folded, 0 after each other step, and the result of each folded
        tenant.
        """
        for partition in range(self.rebuilder.partitions):
            self.log_errors[partition] = self.verifier.log_error(partition)
            yield 0
        to_fold = set(folded)
        for tenant_id in tenants:
            mismatches = self.verifier.checksum_mismatches(tenant_id)
            if mismatches:
                self.checksum_mismatches[tenant_id] = mismatches
            rows: dict[Method, int] = {"sums": len(mismatches)}
            for result in self.rebuilder.verify([tenant_id]) if tenant_id in to_fold else ():
                if isinstance(result, TenantRebuild) and result.error is not None:
                    self.failed[tenant_id] = result.error
                elif isinstance(result, TenantRebuild):
                    rows["rows"] = sum(sum(counts.values()) for counts in result.differed.values())
                yield result
            self.differing_rows[tenant_id] = rows
            if any(rows.values()):
                self.mismatched.add(tenant_id)
            yield 0

    def repair(self) -> Iterator[None]:
        """Rebuild the tenants that differ, except on partitions with an incomplete log; yields after each step."""
        partitions = self.rebuilder.partitions
        damaged = {partition for partition, error in self.log_errors.items() if error}
        damaged |= {partition_of(tenant_id, partitions) for tenant_id in self.failed}
        for tenant_id in sorted(self.mismatched):
            if partition_of(tenant_id, partitions) in damaged:
                self.unrepairable.add(tenant_id)
                continue
            yield from self._rebuild(tenant_id)
            if tenant_id not in self.failed and not self.verifier.checksum_mismatches(tenant_id):
                self.repaired.add(tenant_id)

    def _rebuild(self, tenant_id: str) -> Iterator[None]:
        request = RebuildRequest(tenant_id=tenant_id)
        with self.rebuilder.writer.begin() as connection:
            pending_rebuilds.plan(connection, request, self.rebuilder.projections, [tenant_id], time.time_ns() // 1000)
        for result in self.rebuilder.rebuild_pending([tenant_id], request):
            if isinstance(result, TenantRebuild) and result.error is not None:
                self.failed[tenant_id] = result.error
            yield

    def publish(self, redis: Redis) -> None:
        """Store the results in Redis for status, health and metrics; raises RedisError."""
        published = verify_results.read_mismatched_tenants(redis)
        for tenant_id in (self.mismatched | published) & self.differing_rows.keys():
            rows = self.differing_rows[tenant_id]
            if tenant_id in self.repaired:
                rows = dict.fromkeys(rows, 0)
            if len(self.verifier.projections) < len(PROJECTIONS):  # then 0 says nothing about the others
                rows = {method: count for method, count in rows.items() if count}
            verify_results.store_tenant(redis, tenant_id, rows)
        for partition, error in self.log_errors.items():
            verify_results.store_log(redis, partition, error)
        if len(self.verifier.projections) == len(PROJECTIONS):
            items: list[int | str] = [*self.log_errors, *self.differing_rows]
            for item in items:
                verify_pass.looked_at(redis, item)
