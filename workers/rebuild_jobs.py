"""Rebuilds on the workers: each job works for a moment and gives way to the drains behind it in the queue.

A job names no tenant. A worker goes on with the one that it is in the middle of, or takes the next that nobody has; so
losing a job loses nothing, and a worker that dies leaves its tenant to another.

Keys:

    projector:rebuilding:{tenant}  string  the token of the worker that folds a tenant's log; expires
    projector:rebuilt:{asked}      list    JSON: what jobs have done, until the command that asked takes it; expires
"""

import time
from collections.abc import Iterator

import structlog
from pydantic import BaseModel
from redis import Redis
from redis.exceptions import LockError
from redis.lock import Lock
from rq.job import Job
from rq.timeouts import BaseTimeoutException

from projections import due
from projections.due import Asked
from projections.faults import describe
from workers.errors import WorkersError
from workers.queue import ask_to_rebuild
from workers.rebuild import Outcome, Rebuilder
from workers.runtime import Runtime, process_runtime
from workers.status import read_workers

WHILE_S = 0.5
TENANT_LEASE_S = 10.0  # longer than a drain or two keep a worker from it
OUTAGE_S = 2.0
REPORTS_KEPT_S = 3600
LOST_AFTER_S = 60.0
LOOK_EVERY_S = 0.2

log = structlog.get_logger()


class WorkDone(BaseModel):
    """What one job has done: how many events it folded, and the tenants that it brought to an end."""

    events: int = 0
    outcomes: list[Outcome] = []

    def add(self, each: int | Outcome) -> None:
        """Count a page, or a tenant."""
        if isinstance(each, int):
            self.events += each
        else:
            self.outcomes.append(each)


class NoWorkerError(WorkersError):
    """Nobody is there to do the work."""


# What this process is in the middle of. Losing it costs only time.
_under_way: dict[Asked, Iterator[int | Outcome]] = {}


def work_for_a_while(projection: str | None, tenant_id: str | None) -> None:
    """Go on with a rebuild that is due for WHILE_S: the RQ job. Raises WorkersError if its arguments are none."""
    if not all(isinstance(argument, str | None) for argument in (projection, tenant_id)):
        raise WorkersError(f"a rebuild is of a projection and a tenant by name, not {projection!r}, {tenant_id!r}")
    work_here(process_runtime(), Asked(projection, tenant_id))


def work_here(runtime: Runtime, asked: Asked) -> None:
    """Go on for WHILE_S with what this process is in the middle of; tell the command what was done."""
    work = _under_way.pop(asked, None) or _work(runtime, asked)
    done = WorkDone()
    deadline = time.monotonic() + WHILE_S
    try:
        for each in work:
            done.add(each)
            if time.monotonic() > deadline:
                _under_way[asked] = work
                return
    except BaseTimeoutException:
        raise
    except Exception as error:
        log.warning("rebuild.left", error=describe(error))  # the command asks again
    finally:
        _tell(runtime.queue.connection, asked, done)


def ask_workers(runtime: Runtime, asked: Asked, timeout_s: float) -> Iterator[int | Outcome]:
    """Let the workers do what is due, one job a worker at a time; yields what they tell.

    Raises NoWorkerError if there are none, or if nothing has gone for `timeout_s`; what is due stays due then.
    """
    redis = runtime.queue.connection
    redis.delete(_reports_key(asked))
    moved_s = time.monotonic()
    failed: set[str] = set()
    jobs: dict[str, float] = {}
    while _is_due(runtime, asked, failed):
        for each in _told(redis, asked):
            moved_s = time.monotonic()
            if isinstance(each, Outcome) and each.error is not None:
                if each.tenant_id in failed:
                    continue  # another job has tried it again
                failed.add(each.tenant_id)
            yield each
        alive = [worker for worker in read_workers(runtime) if not worker.stalled]
        if not alive or time.monotonic() - moved_s > timeout_s:
            what = "no worker is alive" if not alive else f"no worker has rebuilt anything for {timeout_s:g} s"
            raise NoWorkerError(f"{what}; start `projector worker`, or rebuild without --workers")
        jobs = {id_: at_s for id_, at_s in jobs.items() if _is_waiting_or_running(runtime, id_, at_s)}
        for _ in range(len(alive) - len(jobs)):
            jobs[ask_to_rebuild(runtime.queue, asked.projection, asked.tenant_id)] = time.monotonic()
        time.sleep(LOOK_EVERY_S)
    yield from _told(redis, asked)


def _work(runtime: Runtime, asked: Asked) -> Iterator[int | Outcome]:
    """Rebuild one due tenant after the other, of those that no other worker has."""
    chosen = [each for each in runtime.projections if asked.projection in (None, each.name)]
    rebuilder = Rebuilder(runtime.writer, runtime.reader, runtime.settings.partitions, chosen, OUTAGE_S)
    with runtime.reader.connect() as connection:
        tenants = due.read(connection, asked)
    for tenant_id in tenants:
        lease = Lock(
            runtime.queue.connection, f"projector:rebuilding:{tenant_id}", timeout=TENANT_LEASE_S, thread_local=False
        )
        if not lease.acquire(blocking=False):
            continue
        for each in rebuilder.rebuild_due(asked, [tenant_id]):
            yield each
            if not _keep(lease):
                break  # it was left alone for so long that another worker may have it
            if isinstance(each, Outcome) and each.error is None:
                # One that failed keeps its lease: it would fail again.
                lease.release()


def _is_due(runtime: Runtime, asked: Asked, failed: set[str]) -> bool:
    with runtime.reader.connect() as connection:
        return due.any_but(connection, asked, failed)


def _keep(lease: Lock) -> bool:
    try:
        return bool(lease.extend(TENANT_LEASE_S, replace_ttl=True))
    except LockError:
        return False


def _is_waiting_or_running(runtime: Runtime, job_id: str, asked_at_s: float) -> bool:
    """Return whether a job is still there; one whose worker was killed is given up after a while."""
    if time.monotonic() - asked_at_s > LOST_AFTER_S:
        return False
    return Job.exists(job_id, connection=runtime.queue.connection)


def _tell(redis: Redis, asked: Asked, done: WorkDone) -> None:
    with redis.pipeline() as pipe:
        pipe.rpush(_reports_key(asked), done.model_dump_json())
        pipe.expire(_reports_key(asked), REPORTS_KEPT_S)
        pipe.execute()


def _told(redis: Redis, asked: Asked) -> Iterator[int | Outcome]:
    """Take what jobs have told since the last time."""
    with redis.pipeline() as pipe:
        pipe.lrange(_reports_key(asked), 0, -1)
        pipe.delete(_reports_key(asked))
        reports, _ = pipe.execute()
    for report in reports:
        done = WorkDone.model_validate_json(report)
        if done.events:
            yield done.events
        yield from done.outcomes


def _reports_key(asked: Asked) -> str:
    return f"projector:rebuilt:{asked.name}"
