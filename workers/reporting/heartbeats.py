"""Reads from Redis which workers and dispatchers exist, and how old their last heartbeats are.

A heartbeat that is ahead of Redis's clock was sent before that clock was set back. It counts as that much too old: a
process that lives sends another one within seconds.
"""

from datetime import UTC, datetime
from typing import Any

from rq import Worker
from rq.worker import BaseWorker

from workers.dispatch.dispatcher import HEARTBEAT_TTL_S, HEARTBEATS_KEY
from workers.dispatch.rq_worker import HEARTBEAT_FIELD
from workers.reporting.status import ProcessStatus
from workers.runtime import Runtime


def read_workers(runtime: Runtime) -> list[ProcessStatus]:
    """Return the workers that RQ has registered for the queue, by name."""
    redis = runtime.queue.connection
    workers = sorted(Worker.all(connection=redis, queue=runtime.queue), key=lambda worker: worker.name)
    with redis.pipeline(transaction=False) as pipe:
        for worker in workers:
            pipe.hget(worker.key, HEARTBEAT_FIELD)
        heartbeats: list[Any] = pipe.execute()
    now_ms = runtime.stream.now_ms()
    return [
        ProcessStatus(
            name=worker.name,
            host=worker.hostname or "",
            pid=worker.pid or 0,
            state=str(worker.get_state()),
            heartbeat_age_s=_heartbeat_age_s(worker, heartbeat_ms, now_ms),
        )
        for worker, heartbeat_ms in zip(workers, heartbeats, strict=True)
    ]


def read_dispatchers(runtime: Runtime) -> list[ProcessStatus]:
    """Return the dispatchers that swept within HEARTBEAT_TTL_S, by name."""
    now_ms = runtime.stream.now_ms()
    oldest_ms = now_ms - HEARTBEAT_TTL_S * 1000
    heartbeats: Any = runtime.queue.connection.zrangebyscore(HEARTBEATS_KEY, oldest_ms, "inf", withscores=True)
    dispatchers = []
    for member, at_ms in sorted(heartbeats):
        name = member.decode()
        host, pid, _ = name.rsplit(".", 2)
        dispatchers.append(
            ProcessStatus(
                name=name,
                host=host,
                pid=int(pid),
                state="sweeping",
                heartbeat_age_s=abs(now_ms - at_ms) / 1000,
            )
        )
    return dispatchers


def _heartbeat_age_s(worker: BaseWorker, heartbeat_ms: bytes | None, now_ms: int) -> float:
    """Return the age by Redis's clock; for a plain RQ worker, which does not record that time, by the hosts' clocks."""
    if heartbeat_ms is not None:
        return abs(now_ms - int(heartbeat_ms)) / 1000
    last: datetime | None = worker.last_heartbeat
    return max(0.0, (datetime.now(UTC) - last).total_seconds()) if last else 0.0
