"""Verification on the workers: every few minutes the tenants that have changed, and some of those at rest.

Like a rebuild's, a job works for a moment and gives way to the drains behind it in the queue.
"""

import time
from collections.abc import Iterator, Sequence

import structlog
from psycopg.errors import QueryCanceled
from rq.timeouts import BaseTimeoutException
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from event_stream.types import partition_of
from projections import checkpoint, due, event_log
from projections.faults import describe
from workers import verified
from workers.queue import ask_to_verify
from workers.runtime import Runtime, process_runtime
from workers.verified import Pass
from workers.verify import Verifier

WHILE_S = 0.5
STATEMENT_S = 5.0  # the drains of a lone worker wait for so long, at most
CHANGES_MAX = 100_000
TENANTS_AT_REST = 20

log = structlog.get_logger()

# What this process is in the middle of. Losing it costs only time.
_under_way: list[Iterator[None]] = []


def work_for_a_while() -> None:
    """Go on verifying for WHILE_S: the RQ job; if more is to be done, it asks for another one."""
    work_here(process_runtime())


def work_here(runtime: Runtime) -> None:
    """Go on for WHILE_S with the pass that this process is in the middle of, or begin one."""
    work = _under_way.pop() if _under_way else _pass(runtime)
    deadline = time.monotonic() + WHILE_S
    try:
        for _ in work:
            if time.monotonic() > deadline:
                _under_way.append(work)
                ask_to_verify(runtime.queue)
                return
    except BaseTimeoutException:
        raise
    except Exception as error:
        log.warning("verify.left", error=describe(error))  # there will be another pass


def _pass(runtime: Runtime) -> Iterator[None]:
    """Verify one tenant after the other, then the logs; yields after each, and tells what was found."""
    redis = runtime.queue.connection
    start, wrong = verified.read_start(redis)
    with runtime.reader.connect() as connection:
        applied = {at.partition: at.applied for at in checkpoint.read_all(connection, runtime.stream.partitions)}
        at_rest = due.tenants_in(connection, runtime.projections, start.after, TENANTS_AT_REST)
        tenants = sorted({*wrong, *at_rest, *_changed(connection, runtime, start, applied)})
    verifier = Verifier(runtime.reader, runtime.stream.partitions, runtime.projections, STATEMENT_S)
    skipped = 0
    for tenant_id in tenants:
        try:
            found = verifier.miscounts(tenant_id)
        except DBAPIError as error:
            if not isinstance(error.orig, QueryCanceled):
                raise
            skipped += 1
            log.warning("verify.skipped", statement_s=STATEMENT_S)
        else:
            verified.note_tenant(redis, tenant_id, len(found))
            if found:
                log.error("verify.mismatch", rows=len(found), read_model=found[0].read_model)
        yield
    for partition, fault in verifier.log_faults():
        verified.note_log(redis, partition, fault)
        yield
    after = at_rest[-1] if len(at_rest) == TENANTS_AT_REST else ""
    verified.note_pass(redis, Pass(until=applied, after=after), time.time_ns() // 1_000_000, len(tenants), skipped)


def _changed(connection: Connection, runtime: Runtime, start: Pass, applied: dict[int, int]) -> Sequence[str]:
    """Return the tenants with events since the last pass; after very many, all of their partitions."""
    found: list[str] = []
    for partition, until in applied.items():
        since = start.until.get(partition, 0)
        if until - since <= CHANGES_MAX:
            found += event_log.tenants_between(connection, partition, since, until)
        else:
            everyone = due.tenants_in(connection, runtime.projections)
            found += [each for each in everyone if partition_of(each, runtime.stream.partitions) == partition]
    return found
