"""Finds what is wrong in a status: errors keep events from the read models, warnings do not.

See docs/decisions/0043-errors-fail-health-warnings-degrade-it.md. A function for one kind of problem returns
one message per problem. `errors` and `warnings` append what to do.
"""

from collections.abc import Mapping
from typing import Literal

from event_stream.plurals import counted
from workers.deployment import Deployment
from workers.reporting.status import Status
from workers.telemetry.progress import STALLED_AFTER_S

REPLACE_STREAM = "replace its stream: docs/how-to/run-book.md#entry-ids-are-ahead-of-the-clock"
APPEND_AGAIN = "correct the producer: docs/how-to/run-book.md#a-stream-is-not-read"
FAILING_AFTER = 3  # failed batches in a row; one or two failures are retried without being reported


def health_state(status: Status) -> Literal["ok", "degraded", "failing"]:
    """Return the state in one word, as `GET /healthz/projector` reports it."""
    return "failing" if errors(status) else "degraded" if warnings(status) else "ok"


def all_problems(status: Status) -> list[str]:
    """Return all errors and warnings; empty if nothing is wrong."""
    return [*errors(status), *warnings(status)]


def errors(status: Status) -> list[str]:
    """Return the problems that keep events from the read models, or would keep new events from them."""
    return [
        *deployment_problems(status.deployment),
        *(f"{problem}; see `projector doctor`" for problem in refused_writes(status)),
        *stalled_partitions(status),
        *(f"{problem}; {REPLACE_STREAM}" for problem in exhausted_ids(status)),
        *(f"{problem}; it retries by itself, see `projector status`" for problem in failing_partitions(status)),
        *(f"{problem}; start `projector dispatcher`" for problem in missing_dispatcher(status)),
        *(f"{problem}; start `projector worker`" for problem in missing_worker(status)),
        *(f"{problem}; fix or roll back the release" for problem in open_circuit_breaker(status)),
        *(f"{problem}; run `projector migrate --rebuild`" for problem in pending_rebuilds(status)),
        *(f"{problem}; run the newer release" for problem in newer_versions(status)),
    ]


def warnings(status: Status) -> list[str]:
    """Return the problems that do not keep other events from the read models."""
    return [
        *(f"{problem}; {REPLACE_STREAM}" for problem in ids_ahead(status)),
        *(f"{problem}; {APPEND_AGAIN}" for problem in unread_streams(status.unread_streams)),
        *(f"{problem}; see `projector dead-letters list`" for problem in open_dead_letters(status)),
        *(f"{problem}; fix that producer" for problem in dead_letter_sources(status)),
        *(
            f"{problem}; let producers append again what they still have, then run `projector lost acknowledge`"
            for problem in lost_entries(status)
        ),
        *(f"{problem}; run `projector verify`" for problem in verification_mismatches(status)),
        *(f"{problem}; run `projector verify --quick`" for problem in overdue_verification(status)),
        *(f"{problem}; kill those that still run, see `projector status`" for problem in silent_processes(status)),
    ]


def deployment_problems(found: Deployment) -> list[str]:
    """Return a problem, with its remedy, if the database and Redis do not belong together."""
    if found.differs:
        wrong = (
            f"Redis belongs to deployment {found.redis_id}, but the database to deployment {found.database_id}, so"
            " nothing is projected; correct REDIS_URL or DATABASE_URL, see `projector deployment show`"
        )
    elif found.is_copy:
        wrong = (
            "the database is a copy of the one that writes for this deployment, so nothing is trimmed; run `projector"
            " deployment adopt` if it replaces that one, or `projector deployment fork` if Redis is a copy too"
        )
    else:
        return []
    return [wrong]


def refused_writes(status: Status) -> list[str]:
    """Return what Redis answers to writes, if it refuses them."""
    refusal = status.redis_refusal
    return [] if refusal is None else [f"Redis refuses writes, so producers cannot append: {refusal}"]


def stalled_partitions(status: Status) -> list[str]:
    """Return the partitions in which entries wait and none is projected."""
    return [
        f"partition {each.partition} is stalled, {counted(each.lag_entries, 'entry')} and {each.lag_s:.0f} s behind"
        for each in status.partitions
        if each.stalled
    ]


def exhausted_ids(status: Status) -> list[str]:
    """Return the partitions whose stream has given the largest id, so that Redis refuses every append."""
    return [
        f"partition {each.partition} accepts no more entries, because its stream has given the largest id"
        for each in status.partitions
        if each.ids_exhausted
    ]


def ids_ahead(status: Status) -> list[str]:
    """Return the partitions whose stream gives ids that are ahead of the database's clock."""
    return [
        f"partition {each.partition} gives ids that are {each.id_ahead_s:,.0f} s ahead of the database's clock"
        for each in status.partitions
        if each.id_ahead_s and not each.ids_exhausted
    ]


def unread_streams(entries_by_key: Mapping[str, int]) -> list[str]:
    """Return the streams that look like a partition's and are not."""
    return [f"nothing reads the {count:,} entries of the stream {key!r}" for key, count in entries_by_key.items()]


def failing_partitions(status: Status) -> list[str]:
    """Return the partitions whose last batches failed, with the cause."""
    return [
        f"partition {each.partition} failed {each.failure.consecutive_failures} times in a row: {each.failure.kind}"
        f" ({each.failure.fault.explanation})"
        for each in status.partitions
        if each.failure is not None and each.failure.consecutive_failures >= FAILING_AFTER
    ]


def missing_dispatcher(status: Status) -> list[str]:
    """Return a problem if no dispatcher is alive. Where Redis refuses heartbeats, it cannot be known."""
    may_be_alive = status.redis_refusal is not None or any(not each.stalled for each in status.dispatchers)
    return [] if may_be_alive else ["no dispatcher is alive"]


def missing_worker(status: Status) -> list[str]:
    """Return a problem if no worker is alive. Where Redis refuses heartbeats, it cannot be known."""
    may_be_alive = status.redis_refusal is not None or any(not each.stalled for each in status.workers)
    return [] if may_be_alive else ["no worker is alive"]


def open_circuit_breaker(status: Status) -> list[str]:
    """Return why a circuit breaker is open, if one is."""
    reason = status.breaker_open_reason
    return [] if reason is None else [f"the circuit breaker is open, nothing is dead-lettered: {reason}"]


def pending_rebuilds(status: Status) -> list[str]:
    """Return the projections with rows that must be rebuilt; until then those rows are stale or missing."""
    return [
        f"a rebuild is pending: {each.name} to version {each.version} for"
        f" {counted(each.rebuild_pending_tenants, 'tenant')}"
        for each in status.projections
        if each.rebuild_pending_tenants
    ]


def newer_versions(status: Status) -> list[str]:
    """Return the projections with rows of a newer release, which this release does not change."""
    return [
        f"{each.name} has rows of a newer release for {counted(each.newer_version_tenants, 'tenant')}"
        for each in status.projections
        if each.newer_version_tenants
    ]


def open_dead_letters(status: Status) -> list[str]:
    """Return the number of open dead letters by reason, if there are any."""
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in status.open_dead_letters.items())
    dropped = sum(status.dead_letters_not_kept.values())
    not_kept = f" ({dropped:,} of them are only counted)" if dropped else ""
    return [f"dead letters are open: {reasons}{not_kept}"] if reasons else []


def dead_letter_sources(status: Status) -> list[str]:
    """Return the sources with very many dead letters in the last ten minutes."""
    return [
        f"{counted(each.entries, 'entry')} from {_described(each.source)} in"
        f" partition {each.partition} became dead letters in the last ten minutes"
        for each in status.dead_letter_sources
        if each.is_reported
    ]


def lost_entries(status: Status) -> list[str]:
    """Return the partitions with entries that Redis lost before they were read, and that nobody has acknowledged."""
    return [
        f"partition {each.partition} lost {counted(each.lost_not_acknowledged, 'unread entry')}"
        for each in status.partitions
        if each.lost_not_acknowledged
    ]


def verification_mismatches(status: Status) -> list[str]:
    """Return the differences between read models, event log and checkpoints that verification found."""
    found = status.verification
    verb = "differs" if found.mismatched_rows == 1 else "differ"
    counts = f"{counted(found.mismatched_rows, 'row')} of {counted(found.mismatched_tenants, 'tenant')}"
    rows = f"{counts} {verb} from the event log"
    logs = [f"the event log of partition {number} is incomplete: {text}" for number, text in found.log_errors.items()]
    return [*([rows] if found.mismatched_tenants else []), *logs]


def overdue_verification(status: Status) -> list[str]:
    """Return what verification has not looked at for more than an hour."""
    found = status.verification
    logs = [f"the event log of partition {number}" for number in found.overdue_logs]
    tenants = [f"the rows of {counted(found.overdue_tenants, 'tenant')}"] if found.overdue_tenants else []
    overdue = ", ".join([*tenants, *logs])
    return [f"not verified for more than an hour: {overdue}"] if overdue else []


def silent_processes(status: Status) -> list[str]:
    """Return how many processes of a role are silent while others work; if all are silent, it is an error.

    Where Redis refuses heartbeats, it cannot be known.
    """
    if status.redis_refusal is not None:
        return []
    roles = {"workers": status.workers, "dispatchers": status.dispatchers}
    counts = [(role, sum(each.stalled for each in processes), len(processes)) for role, processes in roles.items()]
    return [
        f"{silent} of {total} {role} sent no heartbeat for more than {STALLED_AFTER_S:.0f} s"
        for role, silent, total in counts
        if 0 < silent < total
    ]


def _described(source: str | None) -> str:
    return "an unreadable source" if source is None else f"source {source}"
