"""Verifies sums: of a tenant's rows beside those of its events, of a partition's log beside what was applied."""

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
from projections.lifecycle.verify import LogFault, Mismatch, log_fault, mismatches

T = TypeVar("T")

PAUSE_S = 0.5

log = structlog.get_logger()


class Miscount(BaseModel, alias_generator=to_camel, populate_by_name=True):
    """A row, or a group of a feed, whose events are not those of the log: their numbers, None where there is nothing.

    Where both are equal, they are other events.
    """

    read_model: str
    key: tuple[str | None, ...]
    row_events: int | None
    log_events: int | None


@dataclass
class Verifier:
    """Compares sums; nothing is locked, and nothing is changed. An outage is waited for, for `timeout_s`."""

    auditor: Engine
    projections: Sequence[Projection]
    timeout_s: float = 0.0

    def miscounts(self, tenant_id: str) -> list[Miscount]:
        """Return what the sums of a tenant tell; raises what the database raises."""
        return [_miscount(each) for projection in self.projections for each in self._mismatches(projection, tenant_id)]

    def log_fault(self, partition: int, since: int = 0) -> str | None:
        """Return what is wrong with a partition's log behind a number, None where nothing is; raises as above."""
        fault = self._ask(lambda connection: log_fault(connection, partition, since))
        return _told(fault) if fault else None

    def _mismatches(self, projection: Projection, tenant_id: str) -> list[Mismatch]:
        return self._ask(lambda connection: mismatches(connection, projection, tenant_id))

    def _ask(self, question: Callable[[Connection], T]) -> T:
        deadline_s = time.monotonic() + self.timeout_s
        while True:
            try:
                with self.auditor.connect() as connection:
                    return question(connection)
            except DBAPIError as error:
                if (
                    classify_error(error) is ErrorClass.INTERNAL
                    or is_statement_timeout(error)
                    or time.monotonic() > deadline_s
                ):
                    raise
                log.warning("verify.outage", error=describe(error))
                time.sleep(PAUSE_S)


def _miscount(found: Mismatch) -> Miscount:
    return Miscount(
        read_model=found.table.name, key=found.key, row_events=_events(found.stored), log_events=_events(found.logged)
    )


def _events(sums: RowChecksum | None) -> int | None:
    return sums.event_count if sums else None


def _told(fault: LogFault) -> str:
    gaps = ", ".join(str(first) if first == last else f"{first:,} to {last:,}" for first, last in fault.gaps)
    held = f"{fault.applied:,} events were applied, {fault.held:,} are in the log"
    return f"{held}; missing: {gaps}" if gaps else held
