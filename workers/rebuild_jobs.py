"""Rebuilds on the workers: each job works for a moment and gives way to the drains behind it in the queue.

A job names no tenant. A worker goes on with the one that it is in the middle of, or takes the next that nobody has; so
losing a job loses nothing, and a worker that dies leaves its tenant to another.

Keys:

    projector:rebuild-lease:{tenant}     string  the token of the worker that rebuilds a tenant; expires
    projector:rebuild-reports:{request}  list    JSON: what jobs have done, until the command reads it; expires
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog
from pydantic import BaseModel
from redis import Redis
from redis.exceptions import LockError, RedisError
from redis.lock import Lock
from rq.job import Job
from rq.timeouts import BaseTimeoutException
from sqlalchemy.exc import SQLAlchemyError

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
        log.warning("rebuild.job_failed", error=describe(error))  # the command asks again
    finally:
        _tell(runtime.queue.connection, asked, done)


def ask_workers(runtime: Runtime, asked: Asked, timeout_s: float) -> Iterator[int | Outcome]:
    """Let the workers do what is due, one job a worker at a time; yields what they tell.

    Raises NoWorkerError if there are none, or if nothing has gone for `timeout_s`, or then what an outage raised; what
    is due stays due.
    """
    asking = _Asking(runtime, asked)
    moved_s = time.monotonic()
    is_over = False
    while not is_over:
        told: list[int | Outcome] = []
        try:
            is_over, told = asking.look()
        except (RedisError, SQLAlchemyError) as error:
            if time.monotonic() - moved_s > timeout_s:
                raise
            log.warning("rebuild.outage", error=describe(error))
        if told:
            moved_s = time.monotonic()
            yield from told
        elif time.monotonic() - moved_s > timeout_s:
            raise NoWorkerError(f"no worker has rebuilt anything for {timeout_s:g} s; see `projector status`")
        if not is_over:
            time.sleep(LOOK_EVERY_S)


@dataclass
class _Asking:
    """Whom a command has asked, and what it was told."""

    runtime: Runtime
    asked: Asked
    failed: set[str] = field(default_factory=set)
    jobs: dict[str, float] = field(default_factory=dict)

    def look(self) -> tuple[bool, list[int | Outcome]]:
        """Return whether it is over, and what was told since the last look; ask again whoever has nothing to do."""
        # In this order, so that what was told of the last tenant is not missed.
        is_over = not self._is_due()
        told = [each for each in _told(self.runtime.queue.connection, self.asked) if self._is_news(each)]
        if not is_over:
            self._ask()
        return is_over, told

    def _is_due(self) -> bool:
        with self.runtime.reader.connect() as connection:
            return due.any_but(connection, self.asked, self.failed)

    def _is_news(self, each: int | Outcome) -> bool:
        """Return whether this is no failure that was told before: a job may have tried it again."""
        if isinstance(each, int) or each.error is None:
            return True
        is_news = each.tenant_id not in self.failed
        self.failed.add(each.tenant_id)
        return is_news

    def _ask(self) -> None:
        alive = [worker for worker in read_workers(self.runtime) if not worker.stalled]
        if not alive and not self.jobs:
            raise NoWorkerError("no worker is alive; start `projector worker`, or rebuild without --workers")
        queue = self.runtime.queue
        self.jobs = {
            id_: at_s
            for id_, at_s in self.jobs.items()
            # One whose worker was killed is given up after a while.
            if time.monotonic() - at_s < LOST_AFTER_S and Job.exists(id_, connection=queue.connection)
        }
        for _ in range(len(alive) - len(self.jobs)):
            id_ = ask_to_rebuild(queue, self.asked.projection, self.asked.tenant_id)
            self.jobs[id_] = time.monotonic()


def _work(runtime: Runtime, asked: Asked) -> Iterator[int | Outcome]:
    """Rebuild one due tenant after the other, of those that no other worker has."""
    chosen = [each for each in runtime.projections if asked.projection in (None, each.name)]
    rebuilder = Rebuilder(runtime.writer, runtime.reader, runtime.settings.partitions, chosen, OUTAGE_S)
    with runtime.reader.connect() as connection:
        tenants = due.read(connection, asked)
    for tenant_id in tenants:
        lease = Lock(
            runtime.queue.connection, f"projector:rebuild-lease:{tenant_id}", timeout=TENANT_LEASE_S, thread_local=False
        )
        if not lease.acquire(blocking=False):
            continue
        for each in rebuilder.rebuild_due([tenant_id], asked):
            yield each
            if not _keep(lease):
                break  # it was left alone for so long that another worker may have it
            if isinstance(each, Outcome) and each.error is None:
                # One that failed keeps its lease: it would fail again.
                lease.release()


def _keep(lease: Lock) -> bool:
    try:
        return bool(lease.extend(TENANT_LEASE_S, replace_ttl=True))
    except LockError:
        return False


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
    return f"projector:rebuild-reports:{asked.name}"
