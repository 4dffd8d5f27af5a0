"""A check: a code, what it means, its remedy, and a function that looks for the problem."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pydantic import BaseModel

from projections.error_classes import describe
from workers.doctor.context import Context


class Severity(StrEnum):
    """How serious a finding is."""

    ERROR = "error"  # it endangers a guarantee (docs/explanation/guarantees.md)
    WARNING = "warning"  # no guarantee is in danger, but something should be known or improved


class Subject(StrEnum):
    """The part of the deployment that a check inspects. If it cannot be reached, its checks are skipped."""

    HOST = "this host"
    REDIS = "Redis"
    DATABASE = "the database"
    POSTGRESQL = "PostgreSQL"
    SQLITE = "SQLite"
    STATUS = "streams and processes"  # the status of the deployment; needs both Redis and the database


@dataclass(frozen=True)
class Observation:
    """A problem that an inspection found; `values` fill the placeholders of the check's remedy."""

    message: str
    values: Mapping[str, object] = field(default_factory=dict)


class Finding(BaseModel):
    """A problem that a check has found, with its remedy."""

    code: str
    severity: Severity
    guarantee: str | None
    message: str
    remedy: str


Inspect: TypeAlias = Callable[[Context], Iterable[Observation]]


@dataclass(frozen=True)
class Check:
    """One possible problem. While it exists, the later checks of the subjects in `blocks` are skipped."""

    code: str
    subject: Subject
    severity: Severity
    guarantee: str | None
    meaning: str
    remedy: str
    blocks: frozenset[Subject]
    inspect: Inspect

    def run(self, context: Context) -> list[Finding]:
        """Inspect, and return the findings; raises errors of Redis and of the database."""
        return [
            Finding(
                code=self.code,
                severity=self.severity,
                guarantee=self.guarantee,
                message=observation.message,
                remedy=self.remedy.format(**observation.values),
            )
            for observation in self.inspect(context)
        ]


def error_check(
    code: str, subject: Subject, guarantee: str, *, meaning: str, remedy: str, blocks: Iterable[Subject] = ()
) -> Callable[[Inspect], Check]:
    """Return a decorator that makes an inspection a check for an error: a danger to `guarantee`."""
    return lambda inspect: Check(code, subject, Severity.ERROR, guarantee, meaning, remedy, frozenset(blocks), inspect)


def warning_check(
    code: str, subject: Subject, guarantee: str | None = None, *, meaning: str, remedy: str
) -> Callable[[Inspect], Check]:
    """Return a decorator that makes an inspection a check for a warning."""
    return lambda inspect: Check(code, subject, Severity.WARNING, guarantee, meaning, remedy, frozenset(), inspect)


def denied_inspections(context: Context, *errors: type[Exception]) -> Iterator[Observation]:
    """Yield the errors of these types that earlier checks raised, each with the codes of the checks that it stopped."""
    codes: dict[str, list[str]] = {}
    for code, error in context.inspection_errors.items():
        if isinstance(error, errors):
            codes.setdefault(describe(error), []).append(code)
    for reason, skipped in codes.items():
        yield Observation(f"{reason}; not checked: {', '.join(skipped)}")
