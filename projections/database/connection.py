"""Connections to PostgreSQL whose waits are bounded, and work that runs during a wait.

docs/decisions/0026-bound-every-wait.md, docs/decisions/0021-decode-the-next-batch-while-waiting.md
"""

import random
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.errors import PipelineAborted
from psycopg.pq import TransactionStatus
from psycopg.waiting import Ready, Wait

T = TypeVar("T")

_CHECK_EVERY_S = 0.1
# The age after which a pool replaces a connection, so that it follows a failover that closes no connection. It differs
# for each connection, so that they are not replaced all at once.
CONNECTION_AGE_MAX_S = 60.0
_AGE_JITTER = 0.2
_READ_ONLY = "25006"

_work: ContextVar[Callable[[], bool] | None] = ContextVar("work", default=None)


@contextmanager
def run_while_waiting(step: Callable[[], bool]) -> Iterator[None]:
    """While this block waits for PostgreSQL, call `step` until it returns False.

    A step must be short, because it delays the result, and must not use the connection. If it raises, the wait ends
    with its exception.
    """
    token = _work.set(step)
    try:
        yield
    finally:
        _work.reset(token)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that closes itself when the server has not answered for `answer_timeout_s`.

    It also closes when a wait is interrupted, for example by a job's time limit. Otherwise its next user would read the
    result that is still to come. The server rolls back its transaction.

    It closes after a write that the server refuses as read-only, too: the server was demoted by a failover, and a new
    connection leads to its successor. The pool then replaces all older connections.
    """

    # Longer than the server's statement_timeout, whose error is clearer, and shorter than the time after which a
    # partition counts as stalled. It also bounds a whole pipeline.
    answer_timeout_s: float | None = 25.0

    def wait(self, gen: PQGen[T], interval: float = _CHECK_EVERY_S, timeout: float | None = None) -> T:
        """Run a step of the protocol to its end; raises the server's error, or OperationalError if it is silent."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        if _work.get() is not None:
            gen = _work_while_waiting(gen, self.fileno())
        try:
            return super().wait(gen, interval, self.answer_timeout_s)
        except BaseException as error:
            if isinstance(error, psycopg.Error) and error.sqlstate == _READ_ONLY:
                self.close()
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE or _is_from_server(error):
                raise
            self.close()
            if isinstance(error, psycopg.OperationalError):
                raise psycopg.OperationalError(f"the server was silent for {self.answer_timeout_s} s") from error
            raise

    @property
    def is_closed_by_server(self) -> bool:
        """Whether an idle connection is closed or has data to read, which means that the server is closing it.

        This looks at the socket only, without a round trip.
        """
        return self.closed or bool(_poll_for(self.fileno(), Wait.R).poll(0))

    def rollback(self) -> None:
        """Roll back, unless the connection is closed.

        This raises neither for a closed connection nor for statements that a pipeline aborted, so the first error is
        the one that the caller sees.
        """
        while not self.closed:
            try:
                super().rollback()
            except PipelineAborted:
                continue
            return


class BoundedAsyncConnection(psycopg.AsyncConnection[Any]):
    """A `BoundedConnection` for an event loop. It also closes itself when the waiting task is cancelled."""

    answer_timeout_s: float | None = BoundedConnection.answer_timeout_s
    expires_s: float = float("inf")

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = _CHECK_EVERY_S,
        timeout: float | None = None,  # noqa: ASYNC109 (psycopg's own signature)
    ) -> T:
        """Run a step of the protocol to its end; raises the server's error, or OperationalError if it is silent."""
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(_read_greedily(gen, self.fileno()), interval, self.answer_timeout_s)
        except BaseException as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            await self.close()
            if isinstance(error, psycopg.OperationalError):
                raise psycopg.OperationalError(f"the server was silent for {self.answer_timeout_s} s") from error
            raise


def expiry_of_new_connection() -> float:
    """Return the time, by the monotonic clock, at which a connection that is opened now becomes too old."""
    return time.monotonic() + CONNECTION_AGE_MAX_S * random.uniform(1 - _AGE_JITTER, 1)  # noqa: S311 (not for security)


def _is_from_server(error: BaseException) -> bool:
    """Return whether the server sent this error. In a pipeline, more results may follow it."""
    return isinstance(error, psycopg.Error) and (error.sqlstate is not None or isinstance(error, PipelineAborted))


def _read_greedily(gen: PQGen[T], socket: int) -> PQGen[T]:
    """Run a step of the protocol, and wait only if no more data has arrived.

    libpq reads 16 KiB at a time. Returning to the event loop after each read took more than 10 % of a long result's
    time.
    """
    arrived = _poll_for(socket, Wait.R)
    try:
        wanted = next(gen)
        while True:
            ready = Ready.R if wanted == Wait.R and arrived.poll(0) else (yield wanted)
            wanted = gen.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result


def _work_while_waiting(gen: PQGen[T], socket: int) -> PQGen[T]:
    """Run a step of the protocol, and do other work before each wait, until the wait is over or no work is left."""
    ready: Any = None
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result
        if step := _work.get():
            ready_socket = _poll_for(socket, wanted)
            while not ready_socket.poll(0):
                if not step():
                    _work.set(None)  # no work is left, so later waits in this block need not call `step`
                    break
        ready = yield wanted


def _poll_for(socket: int, wanted: Wait) -> select.poll:
    events = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}
    poll = select.poll()
    poll.register(socket, events[wanted])
    return poll
