"""`BackgroundStream` on real pipes: a full one blocks nobody, and the reader learns how many writes were dropped."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TextIO, cast

import pytest
import structlog

from tests.support.full_pipe import FullPipe
from tests.support.servers import wait_until
from workers.background_stream import WRITES_MAX, BackgroundStream


@pytest.fixture
def pipe() -> Iterator[FullPipe]:
    with FullPipe() as made:
        yield made


def test_a_full_pipe_drops_the_oldest_writes_and_reports_their_number_when_it_is_read_again(pipe: FullPipe) -> None:
    stream = BackgroundStream(pipe.writer)
    structlog.configure(
        processors=[structlog.processors.JSONRenderer()],
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", stream)),
    )
    try:
        for number in range(5 * WRITES_MAX):
            stream.write(f"{number}\n")
        assert not pipe.is_writable()
        last = 5 * WRITES_MAX - 1
        reported = wait_for_report(pipe)
    finally:
        structlog.reset_defaults()
    numbers = [int(line) for line in pipe.lines() if line.isdecimal()]
    assert numbers[-1] == last
    assert numbers[1:] == list(range(numbers[1], last + 1))  # the first write was on its way when the pipe was full
    assert reported == stream.dropped == 5 * WRITES_MAX - len(numbers)


def wait_for_report(pipe: FullPipe) -> int:
    """Return how many dropped writes are reported once everything has arrived."""

    def reports() -> list[int]:
        return [json.loads(line)["dropped"] for line in pipe.lines() if "logs.dropped" in line]

    wait_until(lambda: str(5 * WRITES_MAX - 1) in pipe.lines() and reports(), "the report arrives")
    return sum(reports())


def test_waiting_for_the_reader_takes_at_most_a_second(pipe: FullPipe) -> None:
    stream = BackgroundStream(pipe.writer)
    stream.write("last\n")
    started = time.monotonic()
    stream.wait_until_written()
    assert 0.9 < time.monotonic() - started < 10
    pipe.read()
    wait_until(lambda: "last" in pipe.lines(), "the last line arrives")


def test_waiting_ends_when_all_is_written() -> None:
    with FullPipe() as pipe:
        pipe.read()
        stream = BackgroundStream(pipe.writer)
        for number in range(100):
            stream.write(f"{number}\n")
        stream.wait_until_written()
        pipe.read()
        assert pipe.lines() == [str(number) for number in range(100)]


def test_a_forked_process_writes_its_own_lines_only(pipe: FullPipe) -> None:
    stream = BackgroundStream(pipe.writer)
    stream.write("of the parent\n")
    child = os.fork()
    if child == 0:
        stream.write("of the child\n")
        stream.wait_until_written()
        os._exit(0)
    wait_until(lambda: len(pipe.lines()) >= 2, "both lines arrive", 20)
    os.waitpid(child, 0)
    assert sorted(pipe.lines()) == ["of the child", "of the parent"]


def test_a_signal_handler_may_write_while_a_write_is_interrupted(pipe: FullPipe) -> None:
    stream = BackgroundStream(pipe.writer)
    interrupted = []

    def handle(*_: object) -> None:
        stream.write("handler\n")
        interrupted.append(True)

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        while len(interrupted) < 20:
            stream.write("main\n")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    stream.write("last\n")
    wait_until(lambda: "last" in pipe.lines(), "the last line arrives")


def test_a_reader_that_is_gone_costs_nothing() -> None:
    pipe = FullPipe()
    stream = BackgroundStream(pipe.writer)
    os.close(pipe.reader)
    stream.write("lost\n")
    stream.wait_until_written()
    assert stream.dropped == 1
    with suppress(OSError):
        pipe.close()
