"""Runs a task on many tenants in several processes (docs/decisions/0030-rebuild-in-processes.md).

The parent sends each process one tenant at a time through a pipe and receives the results. Each process opens its own
database connections. If a process dies, its tenant is either unchanged or finished. All processes end with the parent.
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

from event_stream.streams.deployment import DeploymentPin
from projections.database.engines import reader_engine, writer_engine
from projections.error_classes import describe
from projections.read_models.registry import PROJECTIONS
from projections.transaction import deployment_table
from workers import background_stream, logs
from workers.errors import WorkersError
from workers.maintenance.rebuild_results import TenantRebuild
from workers.maintenance.rebuild_tenants import Rebuilder

EVENTS_PER_PROCESS_MIN = 50_000  # with fewer events, starting a process costs more than it saves
PROCESSES_MAX = 8  # the default limit: each process opens two connections, and eight keep the database busy

log = structlog.get_logger()

TenantTask: TypeAlias = Callable[[Rebuilder, Sequence[str]], Iterator[int | TenantRebuild]]
"""A task for tenants: a method of Rebuilder, or a `partial` of one. It is pickled for the processes."""


class ProcessEndedError(WorkersError):
    """A process of the pool failed or was killed; the tenant that it had is unchanged or finished."""


class _TaskError(NamedTuple):
    error: str


@dataclass(frozen=True, slots=True)
class _PoolProcess:
    process: Process
    pipe: Connection

    def send(self, tenant_id: str) -> None:
        """Send a tenant. If the process has died, the next `receive` reports it."""
        with suppress(BrokenPipeError):
            self.pipe.send(tenant_id)

    def receive(self) -> int | TenantRebuild | None:
        """Return the next result, or None if the process requests a tenant; raises ProcessEndedError."""
        try:
            message: int | TenantRebuild | _TaskError | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise ProcessEndedError(
                f"a process that folded events ended with exit code {self.process.exitcode}; its tenant is unchanged or"
                " finished: run the command again, with fewer --processes if memory is short"
            ) from None
        if isinstance(message, _TaskError):
            raise ProcessEndedError(message.error)
        return message


def processes_for(events: int) -> int:
    """Return how many processes to use for this number of events: at most one per core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, events // EVENTS_PER_PROCESS_MIN, PROCESSES_MAX))


@contextmanager
def run_parallel(
    rebuilder: Rebuilder, task: TenantTask, tenants: Sequence[str], processes: int
) -> Iterator[Iterator[int | TenantRebuild]]:
    """Run `task` for all tenants while the block is open, in processes with the same options as `rebuilder`.

    Yields an iterator of the results, in the order in which they arrive. With one process, the task runs in the calling
    process. The iterator raises what the task raises in the calling process, and ProcessEndedError if another process
    failed or was killed. Enter the block before starting any thread, because it may fork.
    """
    processes = min(processes, len(tenants))
    if processes <= 1:
        yield task(rebuilder, tenants)
        return
    # A process must not inherit a connection: SQLite's locks belong to a process, and two processes on one
    # PostgreSQL connection would mix their messages.
    rebuilder.writer.dispose()
    rebuilder.reader.dispose()
    url = rebuilder.writer.url.render_as_string(hide_password=False)
    names = frozenset(projection.name for projection in rebuilder.projections)
    make_rebuilder = partial(_open_rebuilder, url, rebuilder.partitions, names, rebuilder.timeout_s)
    with ExitStack() as stack:
        pool = [stack.enter_context(_start_process(make_rebuilder, task)) for _ in range(processes)]
        yield _distribute(pool, iter(tenants))


def _distribute(pool: Sequence[_PoolProcess], tenants: Iterator[str]) -> Iterator[int | TenantRebuild]:
    """Send each process its next tenant when it requests one; yields the results."""
    busy = {process.pipe: process for process in pool}
    while busy:
        for pipe in wait(list(busy)):
            process = busy[pipe]  # type: ignore[index]  # `wait` returns pipes of the list
            message = process.receive()
            if message is not None:
                yield message
            elif (tenant_id := next(tenants, None)) is not None:
                process.send(tenant_id)
            else:
                del busy[process.pipe]


@contextmanager
def _start_process(make_rebuilder: Callable[[], Rebuilder], task: TenantTask) -> Iterator[_PoolProcess]:
    """Start a process. When the block ends, the process ends once it is idle; after an error it is terminated."""
    pipe, child_pipe = Pipe()
    process = Process(target=_run_process, args=(make_rebuilder, task, child_pipe, pipe), daemon=True)
    process.start()
    child_pipe.close()  # otherwise `recv` would not report that the child has died
    try:
        yield _PoolProcess(process, pipe)
    except BaseException:
        process.terminate()
        raise
    finally:
        pipe.close()
        process.join()


def _run_process(
    make_rebuilder: Callable[[], Rebuilder], task: TenantTask, pipe: Connection, parent_pipe: Connection
) -> None:
    """Run the task on each tenant that is received, until the parent closes the pipe."""
    Thread(target=_exit_with_parent, daemon=True).start()
    parent_pipe.close()  # otherwise `recv` would not report that the parent has closed its end
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends this process
    background_stream.write_stderr_in_background()
    logs.configure_once()
    try:
        rebuilder = make_rebuilder()
        while (tenant_id := _receive_tenant(pipe)) is not None:
            for result in task(rebuilder, [tenant_id]):
                pipe.send(result)
    except Exception as error:
        log.warning("rebuild.process_failed", error=describe(error))
        with suppress(OSError):
            pipe.send(_TaskError(describe(error)))
    finally:
        background_stream.finish_stderr()


def _exit_with_parent() -> None:
    """Wait until the parent process has ended, then exit at once; an open transaction is rolled back."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _receive_tenant(pipe: Connection) -> str | None:
    """Request the next tenant; returns None if none is left."""
    pipe.send(None)
    try:
        tenant_id: str = pipe.recv()
    except (EOFError, ConnectionResetError):
        return None
    return tenant_id


def _open_rebuilder(database_url: str, partitions: int, names: frozenset[str], timeout_s: float) -> Rebuilder:
    """Return a rebuilder with engines of its own, because a process cannot use those of another one."""
    projections = [projection for projection in PROJECTIONS if projection.name in names]
    writer, reader, pin = writer_engine(database_url), reader_engine(database_url), DeploymentPin()
    deployment_table.pin(writer, pin)
    deployment_table.pin(reader, pin)
    return Rebuilder(writer, reader, partitions, projections, timeout_s)
