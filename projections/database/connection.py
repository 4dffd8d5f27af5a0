"""Connections to PostgreSQL that never wait for ever: whatever becomes of the server, a caller gets control back."""

import select
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

_LOOK_EVERY_S = 0.1

_work: ContextVar[Callable[[], bool] | None] = ContextVar("work", default=None)


@contextmanager
def run_while_waiting(step: Callable[[], bool]) -> Iterator[None]:
    """Take steps of other work wherever this block waits for PostgreSQL, until one says that there is no more.

    A step should be short, as the answer waits for its end, and not use the connection waited for. What it raises ends
    the wait.
    """
    token = _work.set(step)
    try:
        yield
    finally:
        _work.reset(token)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives up on a server that has been silent for `answer_within_s`, and closes itself then.

    It closes too when something else interrupts a wait, such as a job's time limit: nobody will read that answer, and
    whoever came next on the connection would. What was in its transaction is rolled back by the server.
    """

    # Longer than the server's own limit for a statement, which says better what was wrong, and shorter than what passes
    # for stalled. A whole pipeline has no longer.
    answer_within_s: float | None = 25.0

    def wait(self, gen: PQGen[T], interval: float = _LOOK_EVERY_S, timeout: float | None = None) -> T:
        """Run a step of the protocol to its end; raises what the server answers, or OperationalError if it does not."""
        if timeout is not None:
            return super().wait(gen, interval, timeout)
        if _work.get() is not None:
            gen = _working(gen, self.fileno())
        try:
            return super().wait(gen, interval, self.answer_within_s)
        except BaseException as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE or _is_answer(error):
                raise
            self.close()
            if isinstance(error, psycopg.OperationalError):
                raise psycopg.OperationalError(f"the server was silent for {self.answer_within_s} s") from error
            raise

    @property
    def is_hung_up(self) -> bool:
        """Whether an idle connection is closed, or has something to read: the server has said that it closes it.

        A look at the socket, where asking the server would be a round trip.
        """
        return self.closed or bool(_polling(self.fileno(), Wait.R).poll(0))

    def rollback(self) -> None:
        """Roll back; a closed connection has nothing to roll back, so the error that closed it stays the one to see.

        So does the error of a pipeline, before what stood behind it there and was aborted.
        """
        while not self.closed:
            try:
                super().rollback()
            except PipelineAborted:
                continue
            return


class BoundedAsyncConnection(psycopg.AsyncConnection[Any]):
    """The same for an event loop; it closes itself too when the task that waits is cancelled."""

    answer_within_s: float | None = BoundedConnection.answer_within_s

    async def wait(
        self,
        gen: PQGen[T],
        interval: float = _LOOK_EVERY_S,
        timeout: float | None = None,  # noqa: ASYNC109 (psycopg's own signature)
    ) -> T:
        """Run a step of the protocol to its end; raises what the server answers, or OperationalError if it does not."""
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(_reading_on(gen, self.fileno()), interval, self.answer_within_s)
        except BaseException as error:
            if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
                raise
            await self.close()
            if isinstance(error, psycopg.OperationalError):
                raise psycopg.OperationalError(f"the server was silent for {self.answer_within_s} s") from error
            raise


def _is_answer(error: BaseException) -> bool:
    """Return whether it is what the server answers; in a pipeline there are others to come behind it."""
    return isinstance(error, psycopg.Error) and (error.sqlstate is not None or isinstance(error, PipelineAborted))


def _reading_on(gen: PQGen[T], socket: int) -> PQGen[T]:
    """Run a step of the protocol, but wait only where nothing more has come: libpq takes 16 KiB at a time.

    A turn of the event loop for each of them took more than a tenth of a long answer's time.
    """
    has_come = _polling(socket, Wait.R)
    try:
        wanted = next(gen)
        while True:
            ready = Ready.R if wanted == Wait.R and has_come.poll(0) else (yield wanted)
            wanted = gen.send(ready)
    except StopIteration as done:
        result: T = done.value
        return result


def _working(gen: PQGen[T], socket: int) -> PQGen[T]:
    """Run a step of the protocol, and before each wait, steps of the work to do meanwhile, as long as there is any."""
    ready: Any = None
    while True:
        try:
            wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result
        if step := _work.get():
            has_come = _polling(socket, wanted)
            while not has_come.poll(0):
                if not step():
                    _work.set(None)  # a few events have many waits, and no work for any
                    break
        ready = yield wanted


def _polling(socket: int, wanted: Wait) -> select.poll:
    events = {Wait.R: select.POLLIN, Wait.W: select.POLLOUT, Wait.RW: select.POLLIN | select.POLLOUT}
    polling = select.poll()
    polling.register(socket, events[wanted])
    return polling
