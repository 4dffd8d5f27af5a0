"""Runs the checks and collects their findings."""

from pydantic import BaseModel
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from event_stream.errors import EventStreamError
from workers.doctor.check import Finding, Severity, Subject
from workers.doctor.context import Context
from workers.doctor.registry import CHECKS
from workers.errors import WorkersError


class DoctorReport(BaseModel):
    """The findings, and the codes of the checks that ran and of those that had to be skipped."""

    findings: list[Finding]
    checked: list[str]
    skipped: list[str]

    @property
    def has_errors(self) -> bool:
        """Whether a guarantee is in danger: a finding is an error."""
        return any(finding.severity == Severity.ERROR for finding in self.findings)


def run_checks(context: Context) -> DoctorReport:
    """Run every check that can be run; errors come first in the report. Errors of servers skip a check."""
    other_database = Subject.POSTGRESQL if context.sqlite_file else Subject.SQLITE
    blocked: set[Subject] = set()
    report = DoctorReport(findings=[], checked=[], skipped=[])
    for check in CHECKS:
        if check.subject == other_database:
            continue
        if check.subject in blocked:
            report.skipped.append(check.code)
            continue
        try:
            findings = check.run(context)
        except (RedisError, SQLAlchemyError, EventStreamError, WorkersError) as error:
            context.inspection_errors[check.code] = error
            report.skipped.append(check.code)
            continue
        report.checked.append(check.code)
        report.findings += findings
        blocked |= check.blocks if findings else set()
    report.findings.sort(key=lambda finding: finding.severity != Severity.ERROR)
    return report
