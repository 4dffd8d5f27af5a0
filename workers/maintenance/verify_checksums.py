"""Verifies by checksums: compares a tenant's rows with the event log, and the log with the checkpoint.

See docs/decisions/0032-verify-with-row-checksums-and-a-refold.md.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from projections.database.engines import is_statement_timeout
from projections.error_classes import ErrorClass, classify_error, describe
from projections.folding.projection import Projection
from projections.lifecycle.verify import LogMismatch, RowMismatch, find_log_mismatch, find_row_mismatches

T = TypeVar("T")

RETRY_DELAY_S = 0.5

log = structlog.get_logger()


@dataclass
class ChecksumVerifier:
    """Compares checksums; locks nothing and changes nothing. An outage is retried for up to `timeout_s`."""

    engine: Engine
    projections: Sequence[Projection]
    timeout_s: float = 0.0

    def checksum_mismatches(self, tenant_id: str) -> list[RowMismatch]:
        """Return the rows of a tenant that do not match the log; raises database errors."""
        mismatches: list[RowMismatch] = []
        for projection in self.projections:
            mismatches += self._query(partial(find_row_mismatches, projection=projection, tenant_id=tenant_id))
        return mismatches

    def log_error(self, partition: int, since: int = 0, up_to: int | None = None) -> str | None:
        """Return what is missing in a partition's log after the number `since`, or None; raises database errors.

        Numbers after `up_to` are not looked at.
        """
        mismatch = self._query(partial(find_log_mismatch, partition=partition, after=since, up_to=up_to))
        return _describe(mismatch) if mismatch else None

    def _query(self, query: Callable[[Connection], T]) -> T:
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                with self.engine.connect() as connection:
                    return query(connection)
            except DBAPIError as error:
                if (
                    classify_error(error) is ErrorClass.INTERNAL
                    or is_statement_timeout(error)
                    or time.monotonic() > deadline_s
                ):
                    raise
                log.warning("verify.outage", error=describe(error))
                time.sleep(RETRY_DELAY_S)


def _describe(mismatch: LogMismatch) -> str:
    gaps = ", ".join(str(first) if first == last else f"{first:,} to {last:,}" for first, last in mismatch.gaps)
    counts = f"{mismatch.applied:,} events were applied, {mismatch.logged:,} are in the log"
    return f"{counts}; missing: {gaps}" if gaps else counts
