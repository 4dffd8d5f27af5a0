"""`projector append`: append events from a file or a pipe."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO

import click
from rich.progress import Progress

from cli import environment
from cli.connections import make_producer
from cli.event_file import InputEvent, iter_events
from cli.output import CliError, print_json, progress_bar
from event_stream import Appended, BacklogFullError, InvalidEventError, Producer
from event_stream.producer import Prepared

EVENTS_PER_CHUNK = 1_000
BACKLOG_PAUSE_S = 0.2
WAIT_STEP_S = 0.02


@dataclass
class AppendResult:
    """What happened to the events so far. `last` holds the last appended entry of each partition."""

    appended: int = 0
    rejected: list[tuple[int, InvalidEventError]] = field(default_factory=list)
    last: dict[int, Appended] = field(default_factory=dict)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--wait", is_flag=True, help="Wait until all appended events are projected.")
@click.option(
    "--timeout", default=600.0, show_default=True, help="Give up after this many seconds without any progress."
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def append(file: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Append events from FILE (- for stdin): UTF-8 with one JSON object or array per line, or one array in all.

    Invalid events are reported with their line and the reason, and the others are appended. It is safe to append a
    file again: an event that was accepted before has no effect.
    """
    environment.load()
    producer = make_producer(os.environ)
    result = AppendResult()
    try:
        with progress_bar() as progress, click.open_file(file, "rb") as lines:
            _append_events(producer, progress, lines, _size(file), timeout, result)
            if wait:
                _wait(producer, progress, result, timeout)
    finally:
        _print(result, as_json)
    if result.rejected:
        sys.exit(1)


def _append_events(
    producer: Producer,
    progress: Progress,
    lines: IO[bytes],
    total_bytes: int | None,
    timeout_s: float,
    result: AppendResult,
) -> None:
    """Append events in chunks. Raises BacklogFullError if the backlog stays full for `timeout_s`."""
    task = progress.add_task("appending", total=total_bytes)
    events = iter_events(lines)
    while chunk := list(islice(events, min(EVENTS_PER_CHUNK, producer.backlog_limit))):
        prepared = list(_prepare(producer, chunk, result))
        for appended in _send(producer, prepared, timeout_s):
            result.last[appended.partition] = appended
        result.appended += len(prepared)
        progress.update(
            task,
            completed=lines.tell() if total_bytes else 0,
            description=f"appending: {result.appended:,} appended, {len(result.rejected):,} rejected",
        )


def _prepare(producer: Producer, chunk: Iterable[InputEvent], result: AppendResult) -> Iterator[Prepared]:
    """Yield the valid events, and add the invalid ones to the result."""
    for event in chunk:
        try:
            yield producer.prepare(event.body)
        except InvalidEventError as error:
            result.rejected.append((event.line, error))


def _send(producer: Producer, prepared: list[Prepared], timeout_s: float) -> list[Appended]:
    """Append events; retry while the backlog is full."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return producer.send(prepared)
        except BacklogFullError:
            if time.monotonic() > deadline:
                raise
            time.sleep(BACKLOG_PAUSE_S)


def _wait(producer: Producer, progress: Progress, result: AppendResult, timeout_s: float) -> None:
    """Wait until all appended events are projected. Raises CliError after `timeout_s` without any progress."""
    task = progress.add_task("projecting", total=len(result.last))
    waiting = list(result.last.values())
    progressed_at, before = time.monotonic(), producer.projected()
    while waiting := [appended for appended in waiting if not producer.is_projected(appended)]:
        progress.update(task, completed=len(result.last) - len(waiting))
        now = producer.projected()
        if now != before:
            progressed_at, before = time.monotonic(), now
        if time.monotonic() - progressed_at > timeout_s:
            raise CliError(
                f"{waiting[0]} is not projected, and no event was projected for {timeout_s:g} s; run `projector status`"
            )
        time.sleep(WAIT_STEP_S)


def _print(result: AppendResult, as_json: bool) -> None:
    if as_json:
        rejected = [
            {"line": number, "reason": error.reason.value, "detail": error.detail} for number, error in result.rejected
        ]
        print_json({"appended": result.appended, "rejected": rejected})
        return
    for number, error in result.rejected:
        click.echo(f"line {number}: {error}")
    click.echo(f"appended {result.appended:,}, rejected {len(result.rejected):,}")


def _size(file: str) -> int | None:
    return None if file == "-" else Path(file).stat().st_size
