"""Verification on the workers: every few minutes the tenants that have changed, and some of those at rest.

A job works for a moment, asks for another one, and gives way to the drains before that in the queue. What is left to do
stands in Redis, so any worker goes on with it; losing it costs nothing, as there will be another pass.

Keys:

    projector:verify:scheduled  string  exists until the next pass may be scheduled; expires
"""

import time
from collections.abc import Sequence

import structlog
from rq.timeouts import BaseTimeoutException
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from projections.database.engines import audit_engine, is_statement_timeout
from projections.error_classes import describe
from projections.lifecycle import pending_rebuilds
from projections.transaction import checkpoint, event_log
from workers.jobs.queue import enqueue_verify, is_verify_job
from workers.maintenance import verify_results
from workers.maintenance.verify_checksums import Verifier
from workers.maintenance.verify_results import Pass
from workers.runtime import Runtime, process_runtime

EVERY_S = 300
WHILE_S = 0.5
STATEMENT_S = 2.0  # there are as many in a row as there are read models
CHANGES_MAX = 100_000
CHANGED_TENANTS_MAX = 10_000
TENANTS_AT_REST = 20
KEY = "projector:verify:scheduled"

log = structlog.get_logger()


def ask_if_due(runtime: Runtime) -> None:
    """Let a worker begin a pass, if for EVERY_S nobody was asked; there is never more than one such job."""
    queue = runtime.queue
    is_due = queue.connection.set(KEY, 1, nx=True, ex=EVERY_S)
    if is_due and not any(is_verify_job(job_id) for job_id in queue.get_job_ids()):
        enqueue_verify(queue)


def work_for_a_while() -> None:
    """Go on verifying for WHILE_S: the RQ job; if more is to be done, it asks for another one."""
    work_here(process_runtime())


def work_here(runtime: Runtime) -> None:
    """Go on for WHILE_S with the pass that is under way, or begin one."""
    deadline_s = time.monotonic() + WHILE_S
    auditor = audit_engine(runtime.writer.url, STATEMENT_S)
    try:
        if not verify_results.is_under_way(runtime.queue.connection):
            _begin(runtime)
        verifier = Verifier(auditor, runtime.projections)
        while _look_at_next(runtime, verifier):
            if time.monotonic() > deadline_s:
                runtime.queue.connection.set(KEY, 1, ex=EVERY_S)
                enqueue_verify(runtime.queue)
                return
    except BaseTimeoutException:
        raise
    except Exception as error:
        log.warning("verify.job_failed", error=describe(error))  # there will be another job
    finally:
        auditor.dispose()


def _look_at_next(runtime: Runtime, verifier: Verifier) -> bool:
    """Look at one log or tenant, and tell what was found; returns False at the end of the pass."""
    redis = runtime.queue.connection
    under_way, each = verify_results.take_next(redis)
    if each is None:
        verify_results.end_pass(redis, under_way, time.time_ns() // 1_000_000)
        return False
    try:
        if isinstance(each, int):
            verify_results.note_log(redis, each, verifier.log_fault(each, under_way.since.get(each, 0)))
        else:
            found = verifier.miscounts(each)
            verify_results.note_tenant(redis, each, {"sums": len(found)})
            if found:
                log.error("verify.mismatch", rows=len(found), read_model=found[0].read_model)
    except DBAPIError as error:
        if not is_statement_timeout(error):
            verify_results.put_back(redis, each)
            raise
        verify_results.count_skipped(redis, under_way)
        log.warning("verify.skipped", timeout_s=STATEMENT_S)
    return True


def _begin(runtime: Runtime) -> None:
    """Note what a pass is to look at: what was logged since the last one, whose it is, and some tenants at rest."""
    redis, partitions = runtime.queue.connection, runtime.stream.partitions
    since, after = verify_results.read_last(redis)
    with runtime.reader.connect() as connection:
        until = {at.partition: at.applied for at in checkpoint.read_all(connection, partitions)}
        # A database that was set back has other events behind a number than those that were looked at.
        since = {partition: number for partition, number in since.items() if number <= until[partition]}
        changed = _changed(connection, runtime, since, until)
        at_rest = pending_rebuilds.tenants_in(connection, runtime.projections, after, TENANTS_AT_REST)
    tenants = sorted({*verify_results.read_wrong(redis), *changed, *at_rest})
    begun = Pass(
        since=since,
        until=until,
        after=at_rest[-1] if len(at_rest) == TENANTS_AT_REST else "",
        tenants=len(tenants),
    )
    verify_results.begin_pass(redis, begun, [*range(partitions), *tenants])


def _changed(connection: Connection, runtime: Runtime, since: dict[int, int], until: dict[int, int]) -> Sequence[str]:
    """Return the tenants with events since the last pass; after very many events, the first of all tenants."""
    spans = [(partition, since.get(partition, 0), last) for partition, last in until.items()]
    if sum(last - first for _, first, last in spans) > CHANGES_MAX:
        return pending_rebuilds.tenants_in(connection, runtime.projections, limit=CHANGED_TENANTS_MAX)
    return [tenant_id for span in spans for tenant_id in event_log.tenants_between(connection, *span)]
