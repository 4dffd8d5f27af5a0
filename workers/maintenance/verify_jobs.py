"""Verifies all tenants in the background, as short RQ jobs (docs/decisions/0033-verify-in-slices-on-the-workers.md).

Every few minutes a pass verifies the tenants with new events, the tenants with known mismatches, and some unchanged
tenants. Each job works for a moment and enqueues the next one, so that queued drains run in between.

Keys:

    projector:verify:scheduled  string  exists until the next pass may be scheduled; expires
"""

import time
from collections.abc import Sequence

import structlog
from redis import Redis
from rq.timeouts import BaseTimeoutException
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from projections.database.engines import audit_engine, is_statement_timeout
from projections.error_classes import describe
from projections.lifecycle import tenant_data
from projections.transaction import checkpoint_table
from workers.jobs.queue import enqueue_verify, is_verify_job
from workers.maintenance import verify_pass, verify_results
from workers.maintenance.verify_checksums import ChecksumVerifier
from workers.maintenance.verify_pass import VerificationPass
from workers.runtime import Runtime, process_runtime

PASS_INTERVAL_S = 300
SLICE_S = 0.5
STATEMENT_TIMEOUT_S = 2.0  # for each statement; a tenant needs one per read model
LOG_EVENTS_AT_ONCE = 1_000_000  # counted within STATEMENT_TIMEOUT_S also on a slow disk
CHANGED_EVENTS_MAX = 100_000
CHANGED_TENANTS_MAX = 10_000
UNCHANGED_TENANTS_MAX = 20
SCHEDULED_KEY = "projector:verify:scheduled"

log = structlog.get_logger()


def enqueue_next_pass(runtime: Runtime) -> None:
    """Enqueue a verification job, at most once in PASS_INTERVAL_S, unless one is queued."""
    queue = runtime.queue
    may_schedule = queue.connection.set(SCHEDULED_KEY, 1, nx=True, ex=PASS_INTERVAL_S)
    if may_schedule and not any(is_verify_job(job_id) for job_id in queue.get_job_ids()):
        enqueue_verify(queue)


def run_verify_job() -> None:
    """Verify for SLICE_S with the runtime of this worker. This is the RQ job's function."""
    verify_slice(process_runtime())


def verify_slice(runtime: Runtime) -> None:
    """Start or continue a pass for SLICE_S; enqueues another job if items are left."""
    deadline_s = time.monotonic() + SLICE_S
    engine = audit_engine(runtime.writer.url, STATEMENT_TIMEOUT_S)
    try:
        if not verify_pass.is_running(runtime.queue.connection):
            _start_pass(runtime)
        verifier = ChecksumVerifier(engine, runtime.projections)
        while _verify_next(runtime, verifier):
            if time.monotonic() > deadline_s:
                runtime.queue.connection.set(SCHEDULED_KEY, 1, ex=PASS_INTERVAL_S)
                enqueue_verify(runtime.queue)
                return
    except BaseTimeoutException:
        raise
    except Exception as error:
        log.warning("verify.job_failed", error=describe(error))  # a later job continues the pass
    finally:
        engine.dispose()


def _verify_next(runtime: Runtime, verifier: ChecksumVerifier) -> bool:
    """Verify the next log or tenant of the pass and store the result; returns False at the end of the pass."""
    redis = runtime.queue.connection
    running, item = verify_pass.take_next(redis)
    if item is None:
        verify_pass.finish(redis, running, time.time_ns() // 1_000_000)
        return False
    try:
        if isinstance(item, int):
            _verify_log(redis, verifier, running, item)
        else:
            _verify_tenant(redis, verifier, item)
    except DBAPIError as error:
        if not is_statement_timeout(error):
            verify_pass.put_back(redis, item)
            raise
        verify_pass.store_progress(redis, running.model_copy(update={"skipped": running.skipped + 1}))
        log.warning("verify.skipped", timeout_s=STATEMENT_TIMEOUT_S)
    return True


def _verify_log(redis: Redis, verifier: ChecksumVerifier, running: VerificationPass, partition: int) -> None:
    """Verify the next LOG_EVENTS_AT_ONCE numbers of a partition's log; puts it back if more are left."""
    since, until = running.since.get(partition, 0), running.until.get(partition, 0)
    up_to = since + LOG_EVENTS_AT_ONCE if since + LOG_EVENTS_AT_ONCE < until else None
    error = verifier.log_error(partition, since, up_to)
    if error is None and up_to is not None:
        verify_pass.store_progress(redis, running.model_copy(update={"since": {**running.since, partition: up_to}}))
        verify_pass.put_back(redis, partition)
        return
    if error is None:
        verify_results.store_verified_up_to(redis, partition, until)
    verify_results.store_log(redis, partition, error)
    verify_pass.looked_at(redis, partition)


def _verify_tenant(redis: Redis, verifier: ChecksumVerifier, tenant_id: str) -> None:
    mismatches = verifier.checksum_mismatches(tenant_id)
    verify_results.store_tenant(redis, tenant_id, {"sums": len(mismatches)})
    verify_pass.looked_at(redis, tenant_id)
    if mismatches:
        log.error("verify.mismatch", rows=len(mismatches), read_model=mismatches[0].table.name)


def _start_pass(runtime: Runtime) -> None:
    """Start a pass over all partitions, the changed tenants, those with known mismatches, and some unchanged ones.

    It also covers the tenants that an earlier pass took and did not look at.
    """
    redis, partitions = runtime.queue.connection, runtime.stream.partitions
    since, after = verify_results.read_verified_up_to(redis)
    with runtime.reader.connect() as connection:
        until = {
            checkpoint.partition: checkpoint.applied for checkpoint in checkpoint_table.read_all(connection, partitions)
        }
        # A restored database assigns later numbers to other events, so those numbers are verified again.
        since = {partition: number for partition, number in since.items() if number <= until[partition]}
        changed = _changed_tenants(connection, runtime, since, until)
        unchanged = tenant_data.tenants_with_data(connection, runtime.projections, after, UNCHANGED_TENANTS_MAX)
    unlooked = [item for item in verify_pass.read_unlooked(redis) if isinstance(item, str)]
    tenants = sorted({*verify_results.read_mismatched_tenants(redis), *changed, *unchanged, *unlooked})
    started = VerificationPass(
        since=since,
        until=until,
        after=unchanged[-1] if len(unchanged) == UNCHANGED_TENANTS_MAX else "",
        started_ms=time.time_ns() // 1_000_000,
        tenants=len(tenants),
    )
    verify_pass.start(redis, started, [*range(partitions), *tenants])


def _changed_tenants(
    connection: Connection, runtime: Runtime, since: dict[int, int], until: dict[int, int]
) -> Sequence[str]:
    """Return the tenants with events since the last pass; if there are too many events, the first tenants by id."""
    spans = [(partition, since.get(partition, 0), last) for partition, last in until.items()]
    if sum(last - first for _, first, last in spans) > CHANGED_EVENTS_MAX:
        return tenant_data.tenants_with_data(connection, runtime.projections, limit=CHANGED_TENANTS_MAX)
    return [tenant_id for span in spans for tenant_id in tenant_data.tenants_between(connection, *span)]
