"""Checks whether the rows of the read models were made by this release."""

from collections.abc import Iterator

from workers.doctor.check import Observation, Subject, error_check
from workers.doctor.context import Context
from workers.reporting import problems


@error_check(
    "rebuild-pending",
    Subject.STATUS,
    "G3",
    meaning="Rows of a read model have another version than this release's, or lack events because another release ran"
    " in between. They stay stale until they are rebuilt.",
    remedy="run `projector migrate --rebuild` with the release that is to stay",
)
def rebuild_pending(context: Context) -> Iterator[Observation]:
    """Report for which read models a rebuild is pending."""
    yield from map(Observation, problems.pending_rebuilds(context.status))


@error_check(
    "release-too-old",
    Subject.STATUS,
    "G7",
    meaning="A newer release has made rows of a read model. Workers of this release exit when they meet such rows.",
    remedy="run the newer release; to return to this one for good, run `projector rebuild --downgrade` with it",
)
def release_too_old(context: Context) -> Iterator[Observation]:
    """Report which read models have rows of a newer release."""
    yield from map(Observation, problems.newer_versions(context.status))
