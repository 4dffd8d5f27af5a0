"""What operators see: one reading of streams, checkpoints, letters, workers, that every command and check shares.

The database knows what is recorded, Redis what waits and who works. Whoever must say something while one of them is
away, as `/metrics` must, reads the halves by themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel
from rq import Worker
from rq.worker import BaseWorker

from event_stream.entries import End
from projections import checkpoint, dead_letters, versions
from projections.checkpoint import Checkpoint
from projections.versions import Count
from workers import breaker, verified
from workers.dispatcher import HEARTBEAT_TTL_S, HEARTBEATS_KEY
from workers.progress import STALLED_AFTER_S, Failure, Movement, read_movements
from workers.runtime import Runtime
from workers.told import Told
from workers.verified import Verified
from workers.worker import BEAT_MS

FAILURES_MAX = 3  # what goes well the second time is no problem


class PartitionStatus(BaseModel):
    """One partition. `added` = `read` + `in_flight` + `lost`, and `read` = `applied` + `duplicates` + `parked` (G1)."""

    partition: Annotated[int, Told("", "Its number.")]
    epoch: Annotated[
        int, Told("", "Which life of the stream it is, as far as is known; it rises where Redis came back older.")
    ]
    position: Annotated[str, Told("", "The checkpoint: the last entry that was read, `<ms>-<seq>`.")]
    end: Annotated[str | None, Told("", "The stream's last entry; null where it holds none.")]
    lag_entries: Annotated[int, Told("entries", "The same as `in_flight`.")]
    lag_s: Annotated[float, Told("s", "Age of the oldest entry behind the checkpoint; 0 if there is none.")]
    added: Annotated[int, Told("entries", "Ever appended: read + in flight + lost.")]
    read: Annotated[int, Told("entries", "Ever read: applied + duplicates + parked.")]
    applied: Annotated[int, Told("entries", "Their event was new, and counts.")]
    duplicates: Annotated[int, Told("entries", "They repeat an accepted event, and change nothing.")]
    parked: Annotated[int, Told("entries", "They can never be applied, and became dead letters.")]
    lost: Annotated[int, Told("entries", "Redis lost them before they were read: trimmed, evicted, restored older.")]
    in_flight: Annotated[int, Told("entries", "Appended and not yet read.")]
    stalled: Annotated[bool, Told("", "Whether entries wait for more than 30 s and none was projected meanwhile.")]
    failure: Annotated[Failure | None, Told("", "How its last batch failed; null once one is committed.")]


class ProjectionStatus(BaseModel):
    """A projection, and the tenants whose rows are not of this release's version, or lack events."""

    name: Annotated[str, Told("", "Its name.")]
    version: Annotated[int | None, Told("", "This release's version of it; null where only a newer release has it.")]
    due: Annotated[int, Told("tenants", "Their rows are of an older version or lack events: a rebuild is due.")]
    newer: Annotated[int, Told("tenants", "Their rows are of a newer version; this release must not touch them.")]


class ProcessStatus(BaseModel):
    """A worker or a dispatcher; `idle_s` is how long ago its loop last gave a sign of life."""

    name: Annotated[str, Told("", "Its name, host and process id in it.")]
    host: Annotated[str, Told("", "Where it runs.")]
    pid: Annotated[int, Told("", "Its process id there.")]
    state: Annotated[str, Told("", "A worker's `idle`, `busy`, …; a dispatcher's `sweeping`.")]
    idle_s: Annotated[float, Told("s", "How long ago it gave a sign of life; more than 30 is too long.")]

    @property
    def stalled(self) -> bool:
        """Whether its loop has been silent for too long."""
        return self.idle_s > STALLED_AFTER_S


class Status(BaseModel):
    """The state of the deployment."""

    partitions: Annotated[list[PartitionStatus], Told("", "Every partition, by its number.")]
    dead_letters: Annotated[
        dict[str, int], Told("letters", "Open dead letters by reason; reasons without any are left out.")
    ]
    queue_length: Annotated[int, Told("drains", "Rung for, and waiting for a worker.")]
    workers: Annotated[list[ProcessStatus], Told("", "Every worker known, by its name.")]
    dispatchers: Annotated[list[ProcessStatus], Told("", "Every dispatcher known, by its name.")]
    breaker: Annotated[str | None, Told("", "Why a breaker is open; null if none is.")]
    projections: Annotated[list[ProjectionStatus], Told("", "Every projection, in the registry's order.")]
    verified: Annotated[Verified, Told("", "What was found when the read models were compared with the event log.")]

    @property
    def health(self) -> Literal["ok", "degraded", "failing"]:
        """The state in one word, the one that `GET /healthz/projector` answers."""
        return "failing" if self.obstacles() else "degraded" if self.omissions() else "ok"

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
            idle_s=_idle_s(worker, beat, now_ms),
        )
        for worker, beat in zip(found, beats, strict=True)
    ]


def _projections(runtime: Runtime, outdated: Mapping[str, Count]) -> list[ProjectionStatus]:
    known = {projection.name: projection.version for projection in runtime.projections}
    return [
        ProjectionStatus(name=name, version=known.get(name), due=count.due, newer=count.newer)
        for name, count in outdated.items()
    ]


def _idle_s(worker: BaseWorker, beat: bytes | None, now_ms: int) -> float:
    """Return how long a worker has been silent, by Redis's clock; by the two hosts' clocks if it is not one of ours."""
    if beat is not None:
        return max(0.0, (now_ms - int(beat)) / 1000)
    last: datetime | None = worker.last_heartbeat
    return max(0.0, (datetime.now(UTC) - last).total_seconds()) if last else 0.0


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
