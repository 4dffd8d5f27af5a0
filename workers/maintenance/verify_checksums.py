"""Verifies by checksums: compares a tenant's rows with the event log, and the log with the checkpoint.

See docs/decisions/0032-verify-with-row-checksums-and-a-refold.md.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import structlog
from pydantic import BaseModel
from pydantic.alias_generators import to_camel
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from projections.database.engines import is_statement_timeout
from projections.error_classes import ErrorClass, classify_error, describe
from projections.folding.projection import Projection
from projections.folding.row_checksum import RowChecksum
from projections.lifecycle.verify import LogMismatch, RowMismatch, find_log_mismatch, find_row_mismatches

T = TypeVar("T")

RETRY_DELAY_S = 0.5

log = structlog.get_logger()


class ChecksumMismatch(BaseModel, alias_generator=to_camel, populate_by_name=True):
    """A row of a rollup, or a group of a feed, that holds other events than the log.

    `row_events` and `log_events` count the events on each side; None means that the key is missing on that side. If the
    two are equal, the fingerprints of the events differ.
    """

    read_model: str
    key: tuple[str | None, ...]
    row_events: int | None
    log_events: int | None


@dataclass
class ChecksumVerifier:
    """Compares checksums; locks nothing and changes nothing. An outage is retried for up to `timeout_s`."""

    engine: Engine
    projections: Sequence[Projection]
    timeout_s: float = 0.0

    def checksum_mismatches(self, tenant_id: str) -> list[ChecksumMismatch]:
        """Return the rows of a tenant that do not match the log; raises database errors."""
        return [
            _checksum_mismatch(found)
            for projection in self.projections
            for found in self._mismatches(projection, tenant_id)
        ]

    def log_error(self, partition: int, since: int = 0) -> str | None:
        """Return what is missing in a partition's log after the number `since`, or None; raises database errors."""
        mismatch = self._query(lambda connection: find_log_mismatch(connection, partition, since))
        return _describe(mismatch) if mismatch else None

    def _mismatches(self, projection: Projection, tenant_id: str) -> list[RowMismatch]:
        return self._query(lambda connection: find_row_mismatches(connection, projection, tenant_id))

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


def _checksum_mismatch(mismatch: RowMismatch) -> ChecksumMismatch:
    return ChecksumMismatch(
        read_model=mismatch.table.name,
        key=mismatch.key,
        row_events=_event_count(mismatch.stored),
        log_events=_event_count(mismatch.logged),
    )


def _event_count(checksum: RowChecksum | None) -> int | None:
    return checksum.event_count if checksum else None


def _describe(mismatch: LogMismatch) -> str:
    gaps = ", ".join(str(first) if first == last else f"{first:,} to {last:,}" for first, last in mismatch.gaps)
    counts = f"{mismatch.applied:,} events were applied, {mismatch.logged:,} are in the log"
    return f"{counts}; missing: {gaps}" if gaps else counts
