"""Checks of the work: do events reach the read models, judged as `projector status` and health judge it."""

from collections.abc import Iterator

from event_stream.entries import START
from workers.doctor.check import Checker, Observation, Side
from workers.doctor.context import Context

# An approximate trim leaves at most a node of 100 entries behind.
ENTRIES_LEFT_MAX = 200
# While an old backlog is drained, its entries are old but have been projected only now.
BACKLOG_S = 10.0

work = Checker(Side.WORK)


@work.danger(
    "dispatcher-missing",
    "G7",
    means="No dispatcher gives a sign of life: nobody rings for drains, and nobody trims the streams.",
    remedy="start `projector dispatcher`",
)
def dispatcher_missing(patient: Context) -> Iterator[Observation]:
    """See whether anybody rings."""
    yield from map(Observation, patient.status.undispatched())


@work.danger(
    "worker-missing",
    "G7",
    means="No worker gives a sign of life: nobody drains.",
    remedy="start `projector worker`",
)
def worker_missing(patient: Context) -> Iterator[Observation]:
    """See whether anybody drains."""
    yield from map(Observation, patient.status.undrained())


@work.danger(
    "partition-stalled",
    "G7",
    means="Events of a partition wait, and nothing of it has been projected for 30 s.",
    remedy="look at what workers log (`drain.` lines say what fails); other findings here may be the reason",
)
def partition_stalled(patient: Context) -> Iterator[Observation]:
    """See which partitions do not move."""
    yield from map(Observation, patient.status.stalled())


@work.danger(
    "partition-failing",
    "G7",
    means="The last batches of a partition failed, three or more in a row. Nothing is lost: it waits longer each time,"
    " up to 15 s, and tries again; where memory was short, at once with half as much.",
    remedy="`projector status` shows the error; mend what it names",
)
def partition_failing(patient: Context) -> Iterator[Observation]:
    """See which partitions fail again and again."""
    yield from map(Observation, patient.status.failing())


@work.danger(
    "breaker-open",
    "G7",
    means="Events of at least half of the tenants fail alone: the release is bad, not the events, so nothing is"
    " dead-lettered and the partitions wait.",
    remedy="mend or roll back the release",
)
def breaker_open(patient: Context) -> Iterator[Observation]:
    """See whether a breaker is open."""
    yield from map(Observation, patient.status.held_up())


@work.danger(
    "rebuild-pending",
    "G3",
    means="Rows of a read model are of another version than this release's, or lack events since another release came"
    " by: they stand still until they are rebuilt.",
    remedy="`projector migrate --rebuild` with the release that shall stay",
)
def rebuild_due(patient: Context) -> Iterator[Observation]:
    """See for which read models a rebuild is due."""
    yield from map(Observation, patient.status.due())


@work.danger(
    "release-too-old",
    "G7",
    means="Rows of a read model are of a newer release than this one: workers of this release end where they meet"
    " them.",
    remedy="run the newer release; or, to go back for good, `projector rebuild --downgrade` with this one",
)
def release_too_old(patient: Context) -> Iterator[Observation]:
    """See which read models are beyond this release."""
    yield from map(Observation, patient.status.outdated())


@work.advice(
    "entries-lost",
    "G1",
    means="Redis has lost entries before they were read: trimmed, evicted, or restored from an older state. It has"
    " happened and stays counted; what may cause it again is a finding of its own.",
    remedy="let producers append again what they still have (repeats count once), and nobody but the dispatcher trim",
)
def entries_lost(patient: Context) -> Iterator[Observation]:
    """Count what is known to be gone."""
    lost = {each.partition: each.lost for each in patient.status.partitions if each.lost}
    if lost:
        yield Observation(", ".join(f"{count:,} of partition {partition}" for partition, count in lost.items()))


@work.danger(
    "stream-untrimmed",
    "G8",
    means="Projected entries that are more than ten minutes old still lie in a stream: it is not trimmed, and Redis's"
    " memory grows with it.",
    remedy="start `projector dispatcher`, which trims; if one runs, its log says what keeps it from it, unless a"
    " backlog was drained a moment ago: it trims a minute behind",
)
def stream_untrimmed(patient: Context) -> Iterator[Observation]:
    """Look at the oldest entries of the streams that hold more projected ones than a trim leaves."""
    stream = patient.stream
    long_ago_ms = stream.now_ms() - patient.limits.untrimmed_s * 1000
    ends = stream.ends()
    for each in patient.status.partitions:
        projected = ends[each.partition].length - each.in_flight
        if projected <= ENTRIES_LEFT_MAX or each.lag_s > BACKLOG_S:
            continue
        newest = stream.read_from(each.partition, START, ENTRIES_LEFT_MAX).entries[-1]
        if newest.position.ms < long_ago_ms:
            yield Observation(f"partition {each.partition} holds {projected:,} projected entries")
