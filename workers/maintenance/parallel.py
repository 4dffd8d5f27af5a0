"""Tenants folded by several processes of this machine at once: one keeps a core busy, and the database for a sixth.

Each has connections of its own, and a line to the process that asked: it is told a tenant, and tells what comes of it.
One that dies leaves its tenant as it was, or done, and all end when whoever asked has ended.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pipe, Process, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import NamedTuple, TypeAlias

import structlog

from projections.database.engines import reader_engine, writer_engine
from projections.error_classes import describe
from projections.read_models.registry import PROJECTIONS
from workers import logs
from workers.errors import WorkersError
from workers.maintenance.rebuild_tenants import Rebuilder, TenantRebuild

EVENTS_EACH_MIN = 50_000  # in the time that fewer take, a process has hardly begun
PROCESSES_MAX = 8  # unless somebody wants more: each takes two connections, and by then the database has enough to do

log = structlog.get_logger()

Work: TypeAlias = Callable[[Rebuilder, Sequence[str]], Iterator[int | TenantRebuild]]
"""What to do with tenants: a method of the Rebuilder, or a `partial` of one. It is sent to the processes."""


class ProcessEndedError(WorkersError):
    """A process could not go on; the tenant that it had is as it was, or done."""


class _Failed(NamedTuple):
    error: str


@dataclass(frozen=True, slots=True)
class _Helper:
    process: Process
    line: Connection

    def tell(self, tenant_id: str) -> None:
        """Give it a tenant; if it has died, that is heard next."""
        with suppress(BrokenPipeError):
            self.line.send(tenant_id)

    def hear(self) -> int | TenantRebuild | None:
        """Return what it has done, None if it wants the next tenant; raises ProcessEndedError."""
        try:
            told: int | TenantRebuild | _Failed | None = self.line.recv()
        except (EOFError, OSError):
            self.process.join()
            raise ProcessEndedError(
                f"a process that folded events was ended (exit code {self.process.exitcode}); its tenant is as it was,"
                " or done: begin again, with fewer --processes if memory is short"
            ) from None
        if isinstance(told, _Failed):
            raise ProcessEndedError(told.error)
        return told


def processes_for(events: int) -> int:
    """Return how many processes so many events are worth: one a core at most."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, events // EVENTS_EACH_MIN, PROCESSES_MAX))


@contextmanager
def run_parallel(
    rebuilder: Rebuilder, work: Work, tenants: Sequence[str], processes: int
) -> Iterator[Iterator[int | TenantRebuild]]:
    """Do `work` for all tenants, in so many processes that do as `rebuilder` does, within the block.

    Yields what comes of it, as it comes; one alone is this very process. What is yielded raises what `work` does in
    this one, and ProcessEndedError where another failed or was killed. Enter it before any thread is started.
    """
    processes = min(processes, len(tenants))
    if processes <= 1:
        yield work(rebuilder, tenants)
        return
    # None may inherit a connection: SQLite's locks are the process's own, and PostgreSQL would hear two voices on one.
    rebuilder.writer.dispose()
    rebuilder.reader.dispose()
    url = rebuilder.writer.url.render_as_string(hide_password=False)
    names = frozenset(projection.name for projection in rebuilder.projections)
    make = partial(_rebuilder, url, rebuilder.partitions, names, rebuilder.timeout_s)
    with ExitStack() as stack:
        yield _shared_out([stack.enter_context(_helper(make, work)) for _ in range(processes)], iter(tenants))


def _shared_out(helpers: Sequence[_Helper], left: Iterator[str]) -> Iterator[int | TenantRebuild]:
    """Give each helper the next tenant whenever it wants one; yields what they tell."""
    at_work = {helper.line: helper for helper in helpers}
    while at_work:
        for line in wait(list(at_work)):
            helper = at_work[line]  # type: ignore[index]  # it is one of those waited for
            told = helper.hear()
            if told is not None:
                yield told
            elif (tenant_id := next(left, None)) is not None:
                helper.tell(tenant_id)
            else:
                del at_work[helper.line]


@contextmanager
def _helper(make: Callable[[], Rebuilder], work: Work) -> Iterator[_Helper]:
    """Run a process; at the end of the block it ends as soon as it is idle, after an error at once."""
    line, its_own = Pipe()
    process = Process(target=_help, args=(make, work, its_own, line), daemon=True)
    process.start()
    its_own.close()  # else nobody would hear that it died
    try:
        yield _Helper(process, line)
    except BaseException:
        process.terminate()
        raise
    finally:
        line.close()
        process.join()


def _help(make: Callable[[], Rebuilder], work: Work, line: Connection, other_end: Connection) -> None:
    """Work on the tenants that are told, until the line is closed: all that a helper does."""
    Thread(target=_end_with_who_asked, daemon=True).start()
    other_end.close()  # we have it too, and would never hear that nobody else has
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is interrupted ends us
    try:
        logs.configure_once()
        rebuilder = make()
        while (tenant_id := _next(line)) is not None:
            for each in work(rebuilder, [tenant_id]):
                line.send(each)
    except Exception as error:
        log.warning("rebuild.process_failed", error=describe(error))
        with suppress(OSError):
            line.send(_Failed(describe(error)))


def _end_with_who_asked() -> None:
    """Wait until the process that asked has ended, and end then, whatever is being done: it is not committed."""
    asker = parent_process()
    assert asker is not None
    asker.join()
    os._exit(1)


def _next(line: Connection) -> str | None:
    """Ask for a tenant; None where there are no more."""
    line.send(None)
    try:
        tenant_id: str = line.recv()
    except (EOFError, ConnectionResetError):
        return None
    return tenant_id


def _rebuilder(database_url: str, partitions: int, names: frozenset[str], timeout_s: float) -> Rebuilder:
    """Return what rebuilds with engines of its own: a process cannot use those of another."""
    projections = [projection for projection in PROJECTIONS if projection.name in names]
    return Rebuilder(writer_engine(database_url), reader_engine(database_url), partitions, projections, timeout_s)
