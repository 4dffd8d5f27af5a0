"""What operators see: one reading of streams, checkpoints, letters, workers, that every command and check shares.

The database knows what is recorded, Redis what waits and who works. Whoever must say something while one of them is
away, as `/metrics` must, reads the halves by themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field
from rq import Worker
from rq.worker import BaseWorker

from event_stream.entries import StreamEnd
from projections.transaction import checkpoint, dead_letters, projection_version
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.projection_version import Count
from workers.dispatch.dispatcher import HEARTBEAT_TTL_S, HEARTBEATS_KEY
from workers.dispatch.rq_worker import BEAT_MS
from workers.drain import circuit_breaker
from workers.maintenance import verify_results
from workers.maintenance.verify_results import Verified
from workers.runtime import Runtime
from workers.telemetry.progress import STALLED_AFTER_S, Failure, Movement, read_movements

FAILURES_MAX = 3  # what goes well the second time is no problem


class PartitionStatus(BaseModel):
    """One partition: added = read + in_flight + lost, and read = applied + duplicates + dead_lettered (G1)."""

    partition: Annotated[int, Field(description="Partition number.")]
    epoch: Annotated[
        int,
        Field(
            description="Life of the stream, counted from 0; it rises when Redis came back with an older or "
            "another stream."
        ),
    ]
    position: Annotated[str, Field(description="Checkpoint: id of the last entry that was read, `<ms>-<seq>`.")]
    end_position: Annotated[
        str | None,
        Field(description="Id of the stream's last entry; null if the stream is empty."),
    ]
    lag_entries: Annotated[int, Field(description="Same as `in_flight`.")]
    lag_s: Annotated[
        float,
        Field(description="Age in seconds of the oldest entry after the checkpoint; 0 if there is none."),
    ]
    added: Annotated[int, Field(description="Entries ever appended: read + in_flight + lost.")]
    read: Annotated[int, Field(description="Entries ever read: applied + duplicates + dead_lettered.")]
    applied: Annotated[int, Field(description="Entries whose event was new and was applied.")]
    duplicates: Annotated[int, Field(description="Entries that repeat an accepted event; they change nothing.")]
    dead_lettered: Annotated[int, Field(description="Entries that can never be applied and became dead letters.")]
    lost: Annotated[
        int,
        Field(
            description="Entries that Redis lost before they were read: trimmed, evicted, or restored from an "
            "older state."
        ),
    ]
    in_flight: Annotated[int, Field(description="Entries appended and not yet read.")]
    stalled: Annotated[
        bool,
        Field(description="Whether entries have waited for more than 30 s while none was projected."),
    ]
    failure: Annotated[Failure | None, Field(description="Failure of the last batch; null once a batch is committed.")]


class ProjectionStatus(BaseModel):
    """A projection, and the tenants whose rows are not of this release's version, or lack events."""

    name: Annotated[str, Field(description="Name of the projection.")]
    version: Annotated[
        int | None,
        Field(description="Version in this release; null if only a newer release has the projection."),
    ]
    rebuild_pending_tenants: Annotated[
        int,
        Field(description="Tenants whose rows have an older version or lack events, so a rebuild is pending."),
    ]
    newer_version_tenants: Annotated[
        int,
        Field(description="Tenants whose rows have a newer version; this release must not change them."),
    ]


class ProcessStatus(BaseModel):
    """A worker or a dispatcher; `heartbeat_age_s` is how long ago its loop last gave a sign of life."""

    name: Annotated[str, Field(description="Name of the process; contains its host and process id.")]
    host: Annotated[str, Field(description="Host that the process runs on.")]
    pid: Annotated[int, Field(description="Process id on that host.")]
    state: Annotated[str, Field(description="State of a worker (`idle`, `busy`, …) or of a dispatcher (`sweeping`).")]
    heartbeat_age_s: Annotated[float, Field(description="Seconds since the last heartbeat; more than 30 is too long.")]

    @property
    def stalled(self) -> bool:
        """Whether its loop has been silent for too long."""
        return self.heartbeat_age_s > STALLED_AFTER_S


class Status(BaseModel):
    """The state of the deployment."""

    partitions: Annotated[list[PartitionStatus], Field(description="All partitions, by number.")]
    open_dead_letters: Annotated[
        dict[str, int],
        Field(description="Open dead letters by reason; reasons without any are left out."),
    ]
    queue_length: Annotated[int, Field(description="Jobs that wait for a worker.")]
    workers: Annotated[list[ProcessStatus], Field(description="All known workers, by name.")]
    dispatchers: Annotated[list[ProcessStatus], Field(description="All known dispatchers, by name.")]
    breaker_open_reason: Annotated[
        str | None,
        Field(description="Why the circuit breaker is open; null if it is closed."),
    ]
    projections: Annotated[list[ProjectionStatus], Field(description="All projections, in the order of the registry.")]
    verification: Annotated[
        Verified,
        Field(description="Result of comparing the read models with the event log in the background."),
    ]

    @property
    def health(self) -> Literal["ok", "degraded", "failing"]:
        """The state in one word, the one that `GET /healthz/projector` answers."""
        return "failing" if self.errors() else "degraded" if self.warnings() else "ok"

    def problems(self) -> list[str]:
        """Return all that is not as it should be; empty when all is well."""
        return [*self.errors(), *self.warnings()]

    def errors(self) -> list[str]:
        """Return what keeps, or would keep, events from being projected."""
        return [
            *self.stalled(),
            *(f"{found}; it is tried again and again" for found in self.failing()),
            *(f"{found}; start `projector dispatcher`" for found in self.undispatched()),
            *(f"{found}; start `projector worker`" for found in self.undrained()),
            *(f"{found}; mend or roll back the release" for found in self.held_up()),
            *(f"{found}; run `projector migrate --rebuild`" for found in self.due()),
            *(f"{found}; run the newer release" for found in self.outdated()),
        ]

    def warnings(self) -> list[str]:
        """Return what is not as it should be, though nothing keeps other events from the read models."""
        return [
            *(f"{found}; see `projector dead-letters list`" for found in self.unapplied()),
            *(f"{found}; let producers append again what they still have" for found in self.lost()),
            *(f"{found}; run `projector verify`" for found in self.mismatches()),
            *(f"{found}; kill what still runs, see `projector status`" for found in self.silent()),
        ]

    def stalled(self) -> list[str]:
        """Return which partitions do not move though entries wait."""
        return [
            f"partition {each.partition} is stalled, {each.lag_entries:,} entries and {each.lag_s:.0f} s behind"
            for each in self.partitions
            if each.stalled
        ]

    def failing(self) -> list[str]:
        """Return which partitions fail again and again, and whose fault it is."""
        return [
            f"partition {each.partition} failed {each.failure.consecutive_failures} times in a row: {each.failure.kind}"
            f" ({each.failure.fault.explained})"
            for each in self.partitions
            if each.failure is not None and each.failure.consecutive_failures >= FAILURES_MAX
        ]

    def undispatched(self) -> list[str]:
        """Return that nobody rings, if so."""
        return [] if any(not each.stalled for each in self.dispatchers) else ["no dispatcher is alive"]

    def undrained(self) -> list[str]:
        """Return that nobody drains, if so."""
        return [] if any(not each.stalled for each in self.workers) else ["no worker is alive"]

    def silent(self) -> list[str]:
        """Return of which role some give no sign of life, while others do; nobody else tells that they are few."""
        roles = {"workers": self.workers, "dispatchers": self.dispatchers}
        counted = [(role, sum(each.stalled for each in found), len(found)) for role, found in roles.items()]
        return [
            f"{silent} of {known} {role} gave no sign of life for more than {STALLED_AFTER_S:.0f} s"
            for role, silent, known in counted
            if 0 < silent < known
        ]

    def held_up(self) -> list[str]:
        """Return why a breaker is open, if one is."""
        reason = self.breaker_open_reason
        return [] if reason is None else [f"the circuit breaker is open, nothing is dead-lettered: {reason}"]

    def due(self) -> list[str]:
        """Return which read models are to be rebuilt for some tenants: until then their rows are behind, or missing."""
        return [
            f"a rebuild is due: {each.name} to version {each.version} for {each.rebuild_pending_tenants:,} tenants"
            for each in self.projections
            if each.rebuild_pending_tenants
        ]

    def outdated(self) -> list[str]:
        """Return which read models this release is too old for."""
        return [
            f"{each.name} is of a newer release for {each.newer_version_tenants:,} tenants"
            for each in self.projections
            if each.newer_version_tenants
        ]

    def unapplied(self) -> list[str]:
        """Return how many dead letters are open, if any."""
        reasons = ", ".join(f"{reason} {letters:,}" for reason, letters in self.open_dead_letters.items())
        return [f"dead letters are open: {reasons}"] if reasons else []

    def lost(self) -> list[str]:
        """Return of which partitions Redis lost entries before they were read; what is lost stays counted."""
        return [
            f"partition {each.partition} lost {each.lost:,} entries before they were read"
            for each in self.partitions
            if each.lost
        ]

    def mismatches(self) -> list[str]:
        """Return where the read models, or the log itself, do not hold what was applied, as far as was verified."""
        found = self.verification
        rows = f"{found.mismatched_rows:,} rows of {found.mismatched_tenants:,} tenants are not what the event log says"
        logs = [
            f"the event log of partition {number} is not whole: {text}" for number, text in found.log_errors.items()
        ]
        return [*([rows] if found.mismatched_tenants else []), *logs]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The database's half: the checkpoints by partition, the number of open letters of each reason that has any, and
    by projection of how many tenants the rows are not this release's.
    """

    checkpoints: Sequence[Checkpoint]
    open_dead_letters: dict[str, int]
    outdated: Mapping[str, Count]


@dataclass(frozen=True, slots=True)
class Observed:
    """The half of Redis that says who works, and on what."""

    queue_length: int
    workers: list[ProcessStatus]
    dispatchers: list[ProcessStatus]
    breaker_open_reason: str | None
    verification: Verified


def read_status(runtime: Runtime) -> Status:
    """Return the state of the deployment; raises what Redis or the database raise."""
    return complete(runtime, read_recorded(runtime), read_observed(runtime))


def read_recorded(runtime: Runtime) -> Recorded:
    """Return what the database knows; raises what it raises."""
    with runtime.reader.connect() as connection:
        checkpoints = checkpoint.read_all(connection, runtime.stream.partitions)
        outdated = projection_version.count(connection, runtime.projections)
        return Recorded(checkpoints, dead_letters.open_by_reason(connection), outdated)


def read_observed(runtime: Runtime) -> Observed:
    """Return what Redis knows of processes; raises what it raises."""
    return Observed(
        queue_length=runtime.queue.count,
        workers=read_workers(runtime),
        dispatchers=read_dispatchers(runtime),
        breaker_open_reason=circuit_breaker.read(runtime.queue.connection),
        verification=verify_results.read(runtime.queue.connection),
    )


def complete(runtime: Runtime, recorded: Recorded, observed: Observed) -> Status:
    """Return the state of which both halves were read just now; raises what Redis raises.

    The streams' ends are read here, after the checkpoints: those only move forward, so a lag can be too large by a
    moment's work, but never too small.
    """
    ends = runtime.stream.ends()
    now_ms = runtime.stream.now_ms()
    movements = read_movements(runtime.queue.connection, runtime.stream.partitions)
    found = zip(recorded.checkpoints, ends, movements, strict=True)
    return Status(
        partitions=[_partition(runtime, at, end, movement, now_ms) for at, end, movement in found],
        open_dead_letters=recorded.open_dead_letters,
        queue_length=observed.queue_length,
        workers=observed.workers,
        dispatchers=observed.dispatchers,
        breaker_open_reason=observed.breaker_open_reason,
        projections=_projections(runtime, recorded.outdated),
        verification=observed.verification,
    )


def read_dispatchers(runtime: Runtime) -> list[ProcessStatus]:
    """Return the dispatchers that swept within HEARTBEAT_TTL_S, by name."""
    now_ms = runtime.stream.now_ms()
    oldest_ms = now_ms - HEARTBEAT_TTL_S * 1000
    beats: Any = runtime.queue.connection.zrangebyscore(HEARTBEATS_KEY, oldest_ms, "inf", withscores=True)
    found = []
    for member, at_ms in sorted(beats):
        host, _, pid = member.decode().rpartition(".")
        heartbeat_age_s = max(0.0, (now_ms - at_ms) / 1000)
        found.append(
            ProcessStatus(
                name=f"{host}.{pid}", host=host, pid=int(pid), state="sweeping", heartbeat_age_s=heartbeat_age_s
            )
        )
    return found


def read_workers(runtime: Runtime) -> list[ProcessStatus]:
    """Return the workers that RQ knows to listen on our queue, by name."""
    redis = runtime.queue.connection
    found = sorted(Worker.all(connection=redis, queue=runtime.queue), key=lambda worker: worker.name)
    with redis.pipeline(transaction=False) as pipe:
        for worker in found:
            pipe.hget(worker.key, BEAT_MS)
        beats: list[Any] = pipe.execute()
    now_ms = runtime.stream.now_ms()
    return [
        ProcessStatus(
            name=worker.name,
            host=worker.hostname or "",
            pid=worker.pid or 0,
            state=str(worker.get_state()),
            heartbeat_age_s=_heartbeat_age_s(worker, beat, now_ms),
        )
        for worker, beat in zip(found, beats, strict=True)
    ]


def _projections(runtime: Runtime, outdated: Mapping[str, Count]) -> list[ProjectionStatus]:
    known = {projection.name: projection.version for projection in runtime.projections}
    return [
        ProjectionStatus(
            name=name, version=known.get(name), rebuild_pending_tenants=count.due, newer_version_tenants=count.newer
        )
        for name, count in outdated.items()
    ]


def _heartbeat_age_s(worker: BaseWorker, beat: bytes | None, now_ms: int) -> float:
    """Return how long a worker has been silent, by Redis's clock; by the two hosts' clocks if it is not one of ours."""
    if beat is not None:
        return max(0.0, (now_ms - int(beat)) / 1000)
    last: datetime | None = worker.last_heartbeat
    return max(0.0, (datetime.now(UTC) - last).total_seconds()) if last else 0.0


def _partition(runtime: Runtime, at: Checkpoint, end: StreamEnd, movement: Movement, now_ms: int) -> PartitionStatus:
    behind = end.position is not None and end.position != at.position
    settled = at.settled(end)
    added = max(at.read + settled.lost, at.seen.added, settled.added_offset + end.added)
    in_flight = added - at.read - settled.lost
    lag_s = _lag_s(runtime, at, now_ms) if behind else 0.0
    # Far behind, but moving, is what a backlog looks like while it is drained.
    stalled = lag_s > STALLED_AFTER_S and not movement.moves
    return PartitionStatus(
        partition=at.partition,
        epoch=at.epoch,
        position=str(at.position),
        end_position=str(end.position) if end.position else None,
        lag_entries=in_flight,
        lag_s=lag_s,
        added=added,
        read=at.read,
        applied=at.applied,
        duplicates=at.duplicates,
        dead_lettered=at.dead_lettered,
        lost=settled.lost,
        in_flight=in_flight,
        stalled=stalled,
        failure=movement.failure,
    )


def _lag_s(runtime: Runtime, at: Checkpoint, now_ms: int) -> float:
    """Return the age of the oldest entry behind the checkpoint."""
    entries = runtime.stream.read_from(at.partition, at.position, 2).entries
    waiting = next((entry for entry in entries if entry.position > at.position), None)
    return max(0.0, (now_ms - waiting.position.ms) / 1000) if waiting else 0.0
