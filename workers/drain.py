"""The drain: read from the checkpoint, judge, apply, until nothing is left or the time is up."""

import random
import time
from dataclasses import dataclass, field
from functools import partial
from json import dumps

import structlog
from rq.timeouts import BaseTimeoutException

from event_stream.envelope import InvalidEventError, Reason
from event_stream.stream import START, End, Entry, Progress
from event_stream.types import Arrival, decode
from projections import checkpoint
from projections.apply import Batch, apply
from projections.checkpoint import Checkpoint, StaleClaimError
from projections.dead_letters import Letter
from projections.event_log import Received
from projections.faults import Fault, fault_of
from workers.queue import Lease
from workers.runtime import Runtime, process_runtime

BUDGET_S = 2.0
BATCH_FIRST = 250
BATCH_MAX = 2_000
BATCH_BYTES_MAX = 8 * 1024 * 1024
BACK_OFF_FIRST_S = 0.2
BACK_OFF_MAX_S = 15.0

log = structlog.get_logger()


@dataclass
class BatchSize:
    """How many entries to read next: more while they come easily, fewer where they are large or fail."""

    count: int = BATCH_FIRST
    blamed: int = 0

    def grow(self, batch_bytes: int, entries: int) -> None:
        """Make the next batch larger, but not so large that it breaks the byte budget."""
        fitting = max(1, BATCH_BYTES_MAX * entries // max(1, batch_bytes))
        self.count = min(self.count * 2, fitting, BATCH_MAX)
        self.blamed = 0

    def shrink(self) -> None:
        """Make the next batch half as large."""
        self.count = max(1, self.count // 2)

    def blame(self) -> None:
        """Note that the batch failed through what is in it; an entry alone twice so is the culprit."""
        self.blamed += self.count == 1
        self.shrink()

    @property
    def gives_up(self) -> bool:
        """Whether one entry alone has failed twice through what is in it: it is parked."""
        return self.blamed >= 2


@dataclass
class Drainer:
    """One drain of one partition. Any number may run at once: the claim lets one through, the others change nothing."""

    runtime: Runtime
    partition: int
    size: BatchSize = field(default_factory=BatchSize)
    at: Checkpoint | None = None

    def step(self) -> bool:
        """Apply the next batch; returns whether the stream's end is reached.

        Raises StaleClaimError, or what the database, Redis or a fold raise; nothing has changed then.
        """
        expected = self.at or self._checkpoint()
        self.at = None  # what follows may fail, and then only the database knows
        batch = self._read(expected)
        if batch is None:
            return True
        after = apply(self.runtime.writer, self.runtime.projections, batch)
        self.runtime.stream.publish_projected(self.partition, Progress(after.position, after.entries_added()))
        entries = after.read - batch.start.read
        self.size.grow(sum(len(received.event.body) for received in batch.received), entries)
        _report(expected, after)
        self.at = after
        return batch.end is not None

    def has_more(self) -> bool:
        """Return whether the stream has moved past the checkpoint."""
        return needs_drain(self._checkpoint(), self.runtime.stream.ends()[self.partition])

    def _checkpoint(self) -> Checkpoint:
        with self.runtime.reader.connect() as connection:
            return checkpoint.read(connection, self.partition)

    def _read(self, expected: Checkpoint) -> Batch | None:
        """Return the next batch, or None where there is nothing to do."""
        start = expected
        # One more than the batch, as the first is the checkpoint's own entry.
        reading = self.runtime.stream.read_from(self.partition, start.position, self.size.count + 1)
        if not start.is_at(reading.entries):
            if reading.end.position is None:
                return None
            start = start.new_epoch(reading.end)
            reading = self.runtime.stream.read_from(self.partition, START, self.size.count)
        entries = [entry for entry in reading.entries if entry.position > start.position]
        end = reading.end if reading.reaches_end else None
        if not entries and (end is None or start.at_end(end) == expected):
            return None
        received, letters = self._judge(entries)
        return Batch(expected, start, received, letters, entries[-1] if entries else None, end)

    def _judge(self, entries: list[Entry]) -> tuple[list[Received], list[Letter]]:
        received: list[Received] = []
        letters: list[Letter] = []
        settings = self.runtime.settings
        arrival = partial(Arrival, self.partition, settings.partitions, max_clock_skew_s=settings.max_clock_skew_s)
        for entry in entries:
            body = entry.body
            try:
                if body is None:
                    raise InvalidEventError(Reason.NOT_AN_EVENT, "the entry has no field `event`")
                event = decode(body, arrival(at_ms=entry.position.ms))
                if self.size.gives_up:
                    raise InvalidEventError(Reason.FOLD_FAILED, "a projection failed on this event alone, twice")
                received.append(Received(entry.position, event))
            except InvalidEventError as error:
                letters.append(Letter.from_error(self.partition, entry.position, body or _shown(entry), error))
        return received, letters


def drain(partition: int, token: str) -> None:
    """Apply what lies behind `partition`'s checkpoint: the RQ job, the only one there is."""
    runtime = process_runtime()
    run(Drainer(runtime, partition), Lease(runtime.queue.connection, partition, token))


def run(drainer: Drainer, lease: Lease, budget_s: float = BUDGET_S) -> None:
    """Step until the stream's end, the budget's end or the lease's loss.

    An outage is not an error of the job: it is logged, and the lease is kept for a while, so that nobody rings before
    it is worth trying again.
    """
    deadline = time.monotonic() + budget_s
    failures = 0
    while lease.enter() and time.monotonic() < deadline:
        try:
            dry = drainer.step()
        except StaleClaimError as error:
            log.info("drain.overtaken", partition=drainer.partition, error=str(error))
            continue
        except BaseTimeoutException:
            raise
        except Exception as error:
            failures += 1
            if not _goes_on_after(error, drainer, failures, lease, deadline):
                return
            continue
        failures = 0
        if dry:
            # What arrived while we were still holding the lease has rung for nobody.
            lease.release()
            if not drainer.has_more():
                return
    lease.release()


def needs_drain(at: Checkpoint, end: End) -> bool:
    """Return whether a stream's end is not where its checkpoint is, ahead of it or behind."""
    if end.position is None:
        return False
    return end.position != at.position or at.at_end(end) != at


def _goes_on_after(error: Exception, drainer: Drainer, failures: int, lease: Lease, deadline: float) -> bool:
    fault = fault_of(error, interruptions=(BaseTimeoutException,))
    if fault is Fault.OURS:
        drainer.size.blame()
    else:
        drainer.size.shrink()
    log.warning(
        "drain.failed",
        partition=drainer.partition,
        fault=fault.value,
        error=f"{type(error).__name__}: {error}".splitlines()[0][:300],
        next_batch=drainer.size.count,
    )
    if fault is Fault.OURS:
        return True
    pause_s = min(BACK_OFF_MAX_S, BACK_OFF_FIRST_S * 2**failures) * random.uniform(0.5, 1.0)  # noqa: S311 (spreads retries, no secret)
    if time.monotonic() + pause_s > deadline:
        lease.keep(pause_s)
        return False
    time.sleep(pause_s)
    return True


def _report(before: Checkpoint, after: Checkpoint) -> None:
    if after.epoch != before.epoch:
        log.warning("stream.replaced", partition=after.partition, epoch=after.epoch, was_at=str(before.position))
    if after.lost != before.lost:
        log.error("stream.lost_entries", partition=after.partition, entries=after.lost - before.lost)
    if after.parked != before.parked:
        log.warning("drain.parked", partition=after.partition, entries=after.parked - before.parked)


def _shown(entry: Entry) -> bytes:
    """Return an entry without the field `event` as JSON, so that a person can see what it was."""
    fields = {_text(name): _text(value) for name, value in entry.fields.items()}
    return dumps(fields, sort_keys=True).encode()


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
