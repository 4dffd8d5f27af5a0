"""Checks whether every partition is drained and its stream trimmed."""

import time
from collections.abc import Iterator

from redis.exceptions import NoPermissionError

from event_stream.streams.entries import START
from event_stream.streams.unread_streams import find_all
from workers.doctor.check import Observation, Subject, error_check, warning_check
from workers.doctor.context import Context
from workers.reporting import problems

# An approximate trim may keep up to one node, 100 entries, more than requested.
UNTRIMMED_ENTRIES_MAX = 200
# While a backlog is drained, its newest projected entries are old too.
BACKLOG_LAG_S = 10.0
SCAN_S = 1.0


@error_check(
    "partition-stalled",
    Subject.STATUS,
    "G7",
    meaning="Events of a partition wait, and none has been projected for 30 s.",
    remedy="look at the log of the workers (`drain.` lines name the error); other findings here may be the cause",
)
def stalled(context: Context) -> Iterator[Observation]:
    """Report which partitions are stalled."""
    yield from map(Observation, problems.stalled_partitions(context.status))


@error_check(
    "entry-ids-exhausted",
    Subject.STATUS,
    "G7",
    meaning="A stream has given the largest possible id, so Redis refuses every append to its partition. A producer has"
    " sent that id.",
    remedy=problems.REPLACE_STREAM + "; find the producer that sends ids of its own instead of `*`",
)
def ids_exhausted(context: Context) -> Iterator[Observation]:
    """Report which streams have given the largest id."""
    yield from map(Observation, problems.exhausted_ids(context.status))


@warning_check(
    "entry-ids-ahead",
    Subject.STATUS,
    meaning="The last id of a stream is ahead of the database's clock by more than PROJECTOR_MAX_CLOCK_SKEW_S: a"
    " producer has sent an id of its own, or Redis's clock was ahead. Later ids are ahead too, so they do not show how"
    " long an entry waits. If all partitions are reported, the database's clock may be wrong.",
    remedy="correct the clocks; then " + problems.REPLACE_STREAM,
)
def ids_ahead(context: Context) -> Iterator[Observation]:
    """Report which streams give ids that are ahead."""
    yield from map(Observation, problems.ids_ahead(context.status))


@warning_check(
    "stream-unread",
    Subject.STATUS,
    meaning="A stream's key looks like a partition's, but has no braces, other characters, or a number that is not a"
    " partition's. Redis accepts its entries, and nothing reads them. The doctor scans the keys for a second at most.",
    remedy=problems.APPEND_AGAIN,
)
def stream_unread(context: Context) -> Iterator[Observation]:
    """Try the most likely keys, and scan the keys in Redis for a limited time."""
    deadline_s = time.monotonic() + SCAN_S
    try:
        found = find_all(context.stream.redis, context.settings.partitions, deadline_s)
    except NoPermissionError:  # SCAN is an administrator's command in many ACLs
        found = context.status.unread_streams
    yield from map(Observation, problems.unread_streams(found))


@error_check(
    "partition-failing",
    Subject.STATUS,
    "G7",
    meaning="The last batches of a partition failed, three or more in a row. Nothing is lost: the partition retries,"
    " after a pause that grows up to 15 s. If memory was short, it retries at once with half as many entries.",
    remedy="`projector status` shows the error; fix its cause",
)
def failing(context: Context) -> Iterator[Observation]:
    """Report which partitions fail repeatedly."""
    yield from map(Observation, problems.failing_partitions(context.status))


@error_check(
    "breaker-open",
    Subject.STATUS,
    "G7",
    meaning="Single events fail for at least half of the tenants. The release is faulty, not the events, so nothing is"
    " dead-lettered and the partitions wait.",
    remedy="fix or roll back the release",
)
def breaker_open(context: Context) -> Iterator[Observation]:
    """Check whether a circuit breaker is open."""
    yield from map(Observation, problems.open_circuit_breaker(context.status))


@warning_check(
    "entries-lost",
    Subject.STATUS,
    "G1",
    meaning="Redis lost entries before they were read: they were trimmed or evicted, or Redis was restored from an"
    " older state. The loss stays counted. A cause that may lose more is a finding of its own.",
    remedy="let producers append again what they still have (duplicates count once), let only the dispatcher trim"
    " streams, then run `projector lost acknowledge`",
)
def entries_lost(context: Context) -> Iterator[Observation]:
    """Count the lost entries that nobody has acknowledged, by partition."""
    lost = {
        each.partition: each.lost_not_acknowledged for each in context.status.partitions if each.lost_not_acknowledged
    }
    if lost:
        yield Observation(", ".join(f"{count:,} of partition {partition}" for partition, count in lost.items()))


@warning_check(
    "verification-overdue",
    Subject.STATUS,
    "G9",
    meaning="Background verification should have looked at some tenants or event logs, and has not for more than an"
    " hour: their statements take more than 2 s, their workers were killed, or no worker has time.",
    remedy="run `projector verify --quick`, which has more time; start more workers",
)
def verification_overdue(context: Context) -> Iterator[Observation]:
    """Report what verification has not looked at."""
    yield from map(Observation, problems.overdue_verification(context.status))


@error_check(
    "stream-untrimmed",
    Subject.STATUS,
    "G8",
    meaning="A stream holds projected entries that are more than ten minutes old. It is not trimmed, and Redis's memory"
    " grows.",
    remedy="start `projector dispatcher`, which trims; if one runs, its log names the error. If a backlog was drained"
    " just now, wait a minute: the dispatcher trims 60 s after the commit",
)
def stream_untrimmed(context: Context) -> Iterator[Observation]:
    """Check the age of the oldest entries in streams that hold more projected entries than a trim keeps."""
    stream = context.stream
    long_ago_ms = stream.now_ms() - context.limits.untrimmed_s * 1000
    ends = stream.ends()
    for each in context.status.partitions:
        projected = ends[each.partition].length - each.in_flight
        if projected <= UNTRIMMED_ENTRIES_MAX or each.lag_s > BACKLOG_LAG_S:
            continue
        newest = stream.position_after(each.partition, START, UNTRIMMED_ENTRIES_MAX)
        if newest is not None and newest.ms < long_ago_ms:
            yield Observation(f"partition {each.partition} holds {projected:,} projected entries")
