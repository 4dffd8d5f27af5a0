"""What operators see: one reading of streams, checkpoints, letters, workers, that every command and check shares.

The database knows what is recorded, Redis what waits and who works. Whoever must say something while one of them is
away, as `/metrics` must, reads the halves by themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel
from rq import Worker

from event_stream.stream import End
from projections import checkpoint, dead_letters, versions
from projections.checkpoint import Checkpoint
from projections.versions import Count
from workers import breaker, verified
from workers.dispatcher import HEARTBEAT_TTL_S, HEARTBEATS_KEY
from workers.progress import STALLED_AFTER_S, Failure, Movement, read_movements
from workers.runtime import Runtime
from workers.verified import Verified

FAILURES_MAX = 3  # what goes well the second time is no problem


class PartitionStatus(BaseModel):
    """One partition. `added` = `read` + `in_flight` + `lost`, and `read` = `applied` + `duplicates` + `parked` (G1)."""

    partition: int
    epoch: int
    position: str
    end: str | None
    lag_entries: int
    lag_s: float
    added: int
    read: int
    applied: int
    duplicates: int
    parked: int
    lost: int
    in_flight: int
    stalled: bool
    failure: Failure | None


class ProjectionStatus(BaseModel):
    """A projection, and the tenants whose rows are not of this release's version, or lack events.

    Of those that are `due` a rebuild makes the rows; those that are `newer` only a newer release may touch. `version`
    is None where only a newer release has the projection.
    """

    name: str
    version: int | None
    due: int
    newer: int


class ProcessStatus(BaseModel):
    """A worker or a dispatcher; `idle_s` is how long ago its loop last gave a sign of life."""

    name: str
    host: str
    pid: int
    state: str
    idle_s: float

    @property
    def stalled(self) -> bool:
        """Whether its loop has been silent for too long."""
        return self.idle_s > STALLED_AFTER_S


class Status(BaseModel):
    """The state of the deployment."""

    partitions: list[PartitionStatus]
    dead_letters: dict[str, int]
    queue_length: int
    workers: list[ProcessStatus]
    dispatchers: list[ProcessStatus]
    breaker: str | None
    projections: list[ProjectionStatus]
    verified: Verified

    def problems(self) -> list[str]:
        """Return all that is not as it should be; empty when all is well."""
        return [*self.obstacles(), *self.omissions()]

    def obstacles(self) -> list[str]:
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

    def omissions(self) -> list[str]:
        """Return what the read models lack or hold wrongly, though nothing keeps other events from them."""
        return [
            *(f"{found}; see `projector dead-letters list`" for found in self.unapplied()),
            *(f"{found}; let producers append again what they still have" for found in self.lost()),
            *(f"{found}; run `projector verify`" for found in self.mismatches()),
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
            f"partition {each.partition} failed {each.failure.failures} times in a row: {each.failure.kind}"
            f" ({each.failure.fault.explained})"
            for each in self.partitions
            if each.failure is not None and each.failure.failures >= FAILURES_MAX
        ]

    def undispatched(self) -> list[str]:
        """Return that nobody rings, if so."""
        return [] if any(not each.stalled for each in self.dispatchers) else ["no dispatcher is alive"]

    def undrained(self) -> list[str]:
        """Return that nobody drains, if so."""
        return [] if any(not each.stalled for each in self.workers) else ["no worker is alive"]

    def held_up(self) -> list[str]:
        """Return why a breaker is open, if one is."""
        return [] if self.breaker is None else [f"the breaker is open, nothing is parked: {self.breaker}"]

    def due(self) -> list[str]:
        """Return which read models are to be rebuilt for some tenants: until then their rows are behind, or missing."""
        return [
            f"a rebuild is due: {each.name} to version {each.version} for {each.due:,} tenants"
            for each in self.projections
            if each.due
        ]

    def outdated(self) -> list[str]:
        """Return which read models this release is too old for."""
        return [
            f"{each.name} is of a newer release for {each.newer:,} tenants" for each in self.projections if each.newer
        ]

    def unapplied(self) -> list[str]:
        """Return how many dead letters are open, if any."""
        reasons = ", ".join(f"{reason} {letters:,}" for reason, letters in self.dead_letters.items())
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
        found = self.verified
        rows = f"{found.wrong_rows:,} rows of {found.wrong_tenants:,} tenants are not what the event log says"
        logs = [f"the event log of partition {number} is not whole: {text}" for number, text in found.logs.items()]
        return [*([rows] if found.wrong_tenants else []), *logs]


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """The database's half: the checkpoints by partition, the number of open letters of each reason that has any, and
    by projection of how many tenants the rows are not this release's.
    """

    checkpoints: Sequence[Checkpoint]
    dead_letters: dict[str, int]
    outdated: Mapping[str, Count]


@dataclass(frozen=True, slots=True)
class Observed:
    """The half of Redis that says who works, and on what."""

    queue_length: int
    workers: list[ProcessStatus]
    dispatchers: list[ProcessStatus]
    breaker: str | None
    verified: Verified


def read_status(runtime: Runtime) -> Status:
    """Return the state of the deployment; raises what Redis or the database raise."""
    return complete(runtime, read_recorded(runtime), read_observed(runtime))


def read_recorded(runtime: Runtime) -> Recorded:
    """Return what the database knows; raises what it raises."""
    with runtime.reader.connect() as connection:
        checkpoints = checkpoint.read_all(connection, runtime.stream.partitions)
        outdated = versions.count(connection, runtime.projections)
        return Recorded(checkpoints, dead_letters.open_by_reason(connection), outdated)


def read_observed(runtime: Runtime) -> Observed:
    """Return what Redis knows of processes; raises what it raises."""
    return Observed(
        queue_length=runtime.queue.count,
        workers=read_workers(runtime),
        dispatchers=read_dispatchers(runtime),
        breaker=breaker.read(runtime.queue.connection),
        verified=verified.read(runtime.queue.connection),
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
        dead_letters=recorded.dead_letters,
        queue_length=observed.queue_length,
        workers=observed.workers,
        dispatchers=observed.dispatchers,
        breaker=observed.breaker,
        projections=_projections(runtime, recorded.outdated),
        verified=observed.verified,
    )


def read_dispatchers(runtime: Runtime) -> list[ProcessStatus]:
    """Return the dispatchers that swept within HEARTBEAT_TTL_S, by name."""
    now_ms = runtime.stream.now_ms()
    oldest_ms = now_ms - HEARTBEAT_TTL_S * 1000
    beats: Any = runtime.queue.connection.zrangebyscore(HEARTBEATS_KEY, oldest_ms, "inf", withscores=True)
    found = []
    for member, at_ms in sorted(beats):
        host, _, pid = member.decode().rpartition(".")
        idle_s = max(0.0, (now_ms - at_ms) / 1000)
        found.append(ProcessStatus(name=f"{host}.{pid}", host=host, pid=int(pid), state="sweeping", idle_s=idle_s))
    return found


def read_workers(runtime: Runtime) -> list[ProcessStatus]:
    """Return the workers that RQ knows to listen on our queue, by name."""
    now = datetime.now(UTC)
    found = Worker.all(connection=runtime.queue.connection, queue=runtime.queue)
    return [
        ProcessStatus(
            name=worker.name,
            host=worker.hostname or "",
            pid=worker.pid or 0,
            state=str(worker.get_state()),
            idle_s=max(0.0, (now - worker.last_heartbeat).total_seconds()) if worker.last_heartbeat else 0.0,
        )
        for worker in sorted(found, key=lambda worker: worker.name)
    ]


def _projections(runtime: Runtime, outdated: Mapping[str, Count]) -> list[ProjectionStatus]:
    known = {projection.name: projection.version for projection in runtime.projections}
    return [
        ProjectionStatus(name=name, version=known.get(name), due=count.due, newer=count.newer)
        for name, count in outdated.items()
    ]


def _partition(runtime: Runtime, at: Checkpoint, end: End, movement: Movement, now_ms: int) -> PartitionStatus:
    behind = end.position is not None and end.position != at.position
    settled = at.settled(end)
    added = max(at.read + settled.lost, at.seen.added, settled.added_before + end.added)
    in_flight = added - at.read - settled.lost
    lag_s = _lag_s(runtime, at, now_ms) if behind else 0.0
    # Far behind, but moving, is what a backlog looks like while it is drained.
    stalled = lag_s > STALLED_AFTER_S and not movement.moves
    return PartitionStatus(
        partition=at.partition,
        epoch=at.epoch,
        position=str(at.position),
        end=str(end.position) if end.position else None,
        lag_entries=in_flight,
        lag_s=lag_s,
        added=added,
        read=at.read,
        applied=at.applied,
        duplicates=at.duplicates,
        parked=at.parked,
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
