"""The projection state of one tenant: which version made its rows in each read model. A value, without a database.

A tenant's states are stored as one line, such as `activity 1, analysis_trend 1 incomplete, project 1`. A projection
that is not named has no rows yet. An `incomplete` one was skipped by a drain of another release: its rows lack the
events since then. docs/decisions/0031-one-projection-version-line-per-tenant.md
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from projections.errors import ProjectionsError
from projections.folding.projection import Projection

_INCOMPLETE = " incomplete"
_STATE = re.compile(rf"(\S+) ([1-9][0-9]{{0,8}})({_INCOMPLETE})?")


class ProjectionState(NamedTuple):
    """The version of a tenant's rows in one read model, and whether they lack events."""

    version: int
    is_incomplete: bool = False


ProjectionStates: TypeAlias = dict[str, ProjectionState]
"""States by projection name. A projection without an entry has no rows yet."""


class OutdatedReleaseError(ProjectionsError):
    """A newer release made the rows, so this one must not touch them."""

    def __init__(self, name: str, version: int, own_version: int | None) -> None:
        support = "does not have it" if own_version is None else f"has version {own_version}"
        super().__init__(
            f"read model {name} is at version {version}, and this release {support}; run the newer release, or go back"
            " to this one with `projector rebuild --downgrade`"
        )


def expected_states(projections: Iterable[Projection]) -> ProjectionStates:
    """Return the states of a tenant whose rows all have this release's version and are complete."""
    return {projection.name: ProjectionState(projection.version) for projection in projections}


def up_to_date(states: ProjectionStates, projections: Iterable[Projection]) -> frozenset[str]:
    """Return the names of the projections whose rows have this release's version and are complete."""
    return frozenset(each.name for each in projections if states.get(each.name) == ProjectionState(each.version))


def refuse_newer(states: ProjectionStates, projections: Sequence[Projection]) -> None:
    """Raise OutdatedReleaseError if any rows have a newer version than these projections, or an unknown projection."""
    own_versions = {projection.name: projection.version for projection in projections}
    for name, state in states.items():
        if state.version > own_versions.get(name, 0):
            raise OutdatedReleaseError(name, state.version, own_versions.get(name))


def dump(states: ProjectionStates) -> str:
    """Return the line that stores states, in the order of their names."""
    lines = [f"{name} {state.version}{_INCOMPLETE * state.is_incomplete}" for name, state in sorted(states.items())]
    return ", ".join(lines)


def parse(line: str) -> ProjectionStates:
    """Return the states of a line. A damaged part is left out, so that its rows are rebuilt."""
    found = [_STATE.fullmatch(each) for each in line.split(", ")]
    return {match[1]: ProjectionState(int(match[2]), match[3] is not None) for match in found if match}


@lru_cache(maxsize=256)
def have_rows(line: str, names: tuple[str, ...]) -> bool:
    """Return whether all these read models have rows, of any version."""
    return parse(line).keys() >= set(names)
