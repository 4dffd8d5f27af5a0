"""`projector append`: events from a file or a pipe, one JSON per line."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import click
from rich.progress import Progress

from cli import environment
from cli.connections import make_producer
from cli.output import CliError, print_json, progress_bar
from event_stream import Appended, BacklogFullError, InvalidEventError, Producer
from event_stream.producer import Prepared

LINES_AT_ONCE = 1_000
BACKLOG_PAUSE_S = 0.2
WAIT_STEP_S = 0.02


@dataclass
class Outcome:
    """What became of the lines; `last` is the last position in each partition."""

    appended: int = 0
    rejected: list[tuple[int, InvalidEventError]] = field(default_factory=list)
    last: dict[int, Appended] = field(default_factory=dict)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--wait", is_flag=True, help="Return when everything appended is projected.")
@click.option(
    "--timeout", default=600.0, show_default=True, help="Give up waiting after so many seconds without progress."
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def append(file: str, wait: bool, timeout: float, as_json: bool) -> None:
    """Append events from FILE (- for stdin), one JSON object per line.

    A line that is not a valid event is rejected with its number and the reason; the others are appended. Appending a
    file again is safe: an event that was accepted before counts once.
    """
    environment.load()
    producer = make_producer(os.environ)
    outcome = Outcome()
    try:
        with progress_bar() as progress, click.open_file(file, "rb") as lines:
            append_lines(producer, progress, lines, _size(file), timeout, outcome)
            if wait:
                _wait(producer, progress, outcome, timeout)
    finally:
        _print(outcome, as_json)
    if outcome.rejected:
        sys.exit(1)


def append_lines(
    producer: Producer,
    progress: Progress,
    lines: Iterable[bytes],
    total_bytes: int | None,
    timeout_s: float,
    outcome: Outcome,
) -> None:
    """Append lines in chunks; raises BacklogFullError if a chunk finds no room for `timeout_s`."""
    task = progress.add_task("appending", total=total_bytes)
    numbered = enumerate(lines, start=1)
    while chunk := list(islice(numbered, min(LINES_AT_ONCE, producer.backlog_limit))):
        prepared = list(_prepared(producer, chunk, outcome))
        for appended in _send(producer, prepared, timeout_s):
            outcome.last[appended.partition] = appended
        outcome.appended += len(prepared)
        progress.update(
            task,
            advance=sum(len(line) for _, line in chunk),
            description=f"appending: {outcome.appended:,} appended, {len(outcome.rejected):,} rejected",
        )


def _prepared(producer: Producer, chunk: Iterable[tuple[int, bytes]], outcome: Outcome) -> Iterator[Prepared]:
    for number, line in chunk:
        body = line.strip()
        if not body:
            continue
        try:
            yield producer.prepare(body)
        except InvalidEventError as error:
            outcome.rejected.append((number, error))


def _send(producer: Producer, prepared: list[Prepared], timeout_s: float) -> list[Appended]:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return producer.send(prepared)
        except BacklogFullError:
            if time.monotonic() > deadline:
                raise
            time.sleep(BACKLOG_PAUSE_S)


def _wait(producer: Producer, progress: Progress, outcome: Outcome, timeout_s: float) -> None:
    """Return when all is projected; raises CliError once nothing at all was projected for `timeout_s`."""
    task = progress.add_task("projecting", total=len(outcome.last))
    waiting = list(outcome.last.values())
    moved_at, before = time.monotonic(), producer.projected()
    while waiting := [position for position in waiting if not producer.is_projected(position)]:
        progress.update(task, completed=len(outcome.last) - len(waiting))
        now = producer.projected()
        if now != before:
            moved_at, before = time.monotonic(), now
        if time.monotonic() - moved_at > timeout_s:
            raise CliError(
                f"{waiting[0]} is not projected, and nothing was for {timeout_s:g} s; see `projector status`"
            )
        time.sleep(WAIT_STEP_S)


def _print(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        rejected = [
            {"line": number, "reason": error.reason.value, "detail": error.detail} for number, error in outcome.rejected
        ]
        print_json({"appended": outcome.appended, "rejected": rejected})
        return
    for number, error in outcome.rejected:
        click.echo(f"line {number}: {error}")
    click.echo(f"appended {outcome.appended:,}, rejected {len(outcome.rejected):,}")


def _size(file: str) -> int | None:
    return None if file == "-" else Path(file).stat().st_size
