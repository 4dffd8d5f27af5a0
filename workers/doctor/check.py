"""What a check is: a code, what it would mean, its remedy, and a look that yields what is so."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TypeAlias

from pydantic import BaseModel

from projections.error_classes import describe
from workers.doctor.context import Context


class Severity(StrEnum):
    """How bad a finding is."""

    DANGER = "danger"  # a guarantee of docs/reference/events.md#guarantees is in danger
    ADVICE = "advice"  # worth knowing, or better otherwise


class Side(StrEnum):
    """What a check looks at; where that is not there, or out of reach, the check is not made."""

    HOST = "this host"
    REDIS = "Redis"
    DATABASE = "the database"
    POSTGRESQL = "PostgreSQL"
    SQLITE = "SQLite"
    WORK = "streams and processes"


@dataclass(frozen=True)
class Observation:
    """What is so, with its value; `values` fill the gaps of the remedy."""

    text: str
    values: Mapping[str, object] = field(default_factory=dict)


class Finding(BaseModel):
    """Something that endangers a promise, or could be better, and the remedy."""

    code: str
    severity: Severity
    guarantee: str | None
    message: str
    remedy: str


Look: TypeAlias = Callable[[Context], Iterable[Observation]]


@dataclass(frozen=True)
class Check:
    """One thing that may be wrong. While it is, checks of the sides in `hides` cannot be made."""

    code: str
    side: Side
    severity: Severity
    guarantee: str | None
    means: str
    remedy: str
    hides: frozenset[Side]
    look: Look

    def findings(self, patient: Context) -> list[Finding]:
        """Look, and return what was found; raises what Redis or the database raise."""
        return [
            Finding(
                code=self.code,
                severity=self.severity,
                guarantee=self.guarantee,
                message=seen.text,
                remedy=self.remedy.format(**seen.values),
            )
            for seen in self.look(patient)
        ]


@dataclass(frozen=True)
class Checker:
    """Makes checks of one side out of looks: `@checker.danger(…)` or `@checker.advice(…)` over a function."""

    side: Side

    def danger(
        self, code: str, guarantee: str, *, means: str, remedy: str, hides: Iterable[Side] = ()
    ) -> Callable[[Look], Check]:
        """Return what makes a look the check of a danger to `guarantee`."""
        return lambda look: Check(code, self.side, Severity.DANGER, guarantee, means, remedy, frozenset(hides), look)

    def advice(self, code: str, guarantee: str | None = None, *, means: str, remedy: str) -> Callable[[Look], Check]:
        """Return what makes a look the check of something less than a danger."""
        return lambda look: Check(code, self.side, Severity.ADVICE, guarantee, means, remedy, frozenset(), look)


def refusals(patient: Context, *kinds: type[Exception]) -> Iterator[Observation]:
    """Tell why checks could not be made, as far as errors of these kinds are the reason, and which."""
    codes: dict[str, list[str]] = {}
    for code, error in patient.refused.items():
        if isinstance(error, kinds):
            codes.setdefault(describe(error), []).append(code)
    for why, unmade in codes.items():
        yield Observation(f"{why}; not checked: {', '.join(unmade)}")
