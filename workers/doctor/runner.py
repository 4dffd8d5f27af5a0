"""The examination: every check that can be made, and what they found."""

from collections.abc import Sequence

from pydantic import BaseModel
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from event_stream.errors import EventStreamError
from workers.doctor.check import Check, Finding, Severity, Side
from workers.doctor.context import Context, UnavailableError
from workers.doctor.registry import CHECKS


class Examination(BaseModel):
    """What was found, the codes of all checks that were made, and of those that something kept from being made."""

    findings: list[Finding]
    checked: list[str]
    skipped: list[str]

    @property
    def in_danger(self) -> bool:
        """Whether a promise is in danger."""
        return any(finding.severity == Severity.DANGER for finding in self.findings)


def examine(patient: Context, checks: Sequence[Check] = CHECKS) -> Examination:
    """Make every check that can be made, the dangers first; raises nothing that Redis or the database raise."""
    other_database = Side.POSTGRESQL if patient.sqlite_file else Side.SQLITE
    hidden: set[Side] = set()
    made = Examination(findings=[], checked=[], skipped=[])
    for check in checks:
        if check.side == other_database:
            continue
        if check.side in hidden:
            made.skipped.append(check.code)
            continue
        try:
            found = check.findings(patient)
        except (RedisError, SQLAlchemyError, EventStreamError, UnavailableError) as error:
            patient.refused[check.code] = error
            made.skipped.append(check.code)
            continue
        made.checked.append(check.code)
        made.findings += found
        hidden |= check.hides if found else set()
    made.findings.sort(key=lambda finding: finding.severity != Severity.DANGER)
    return made
