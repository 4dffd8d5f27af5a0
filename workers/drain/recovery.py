"""Recovery: how a drain continues after a failed batch."""

from dataclasses import dataclass
from typing import NamedTuple

from rq.timeouts import BaseTimeoutException

from projections.error_classes import ErrorClass, classify_error, describe, is_out_of_memory
from projections.transaction.apply import Batch
from projections.transaction.dead_letter_counts import DeadLettersFullError
from workers.drain.batch_size import NARROWING_STEPS_MAX, BatchSize
from workers.drain.circuit_breaker import PROBE_S, CircuitBreaker
from workers.drain.poison import PoisonSuspect, isolating_count


class NextAttempt(NamedTuple):
    """The class of the error, when to try again, and why the circuit breaker is open, if it is."""

    error_class: ErrorClass
    pause_s: float
    breaker_open_reason: str | None = None


@dataclass
class Recovery:
    """Chooses the next attempt after a failed batch of one partition.

    After an external error, the drain pauses and retries with a smaller batch. After an internal error, it narrows the
    batch down to the event that fails. If many tenants have such events, the circuit breaker opens and nothing is
    parked. It also opens for an event whose dead letter has no room.
    """

    batch_size: BatchSize
    poison: PoisonSuspect
    breaker: CircuitBreaker

    def next_attempt(self, error: Exception, batch: Batch | None) -> NextAttempt:
        """Return the next attempt after `error`. `batch` is the failed batch, or None if it could not be read."""
        error_class = classify_error(error, interruptions=(BaseTimeoutException,))
        if isinstance(error, DeadLettersFullError):
            return self._apply_up_to_the_full_group(error, batch)
        if error_class is ErrorClass.INTERNAL and self.isolate(error, batch):
            return NextAttempt(error_class, PROBE_S, f"events of most tenants fail: {describe(error)}")
        pause_s = 0.0 if self._is_worth_trying_at_once(error, error_class) else self.batch_size.next_pause_s()
        return NextAttempt(error_class, pause_s)

    def _apply_up_to_the_full_group(self, error: DeadLettersFullError, batch: Batch | None) -> NextAttempt:
        """Halve the batch until the entry without room is alone, so that all entries before it are applied."""
        is_alone = batch is not None and len(batch.stream_slice.entries) == 1
        self.batch_size.shrink()
        if is_alone:
            return NextAttempt(ErrorClass.INTERNAL, PROBE_S, str(error))
        return NextAttempt(ErrorClass.INTERNAL, 0.0)

    def isolate(self, error: Exception, batch: Batch | None) -> bool:
        """Narrow down which event made a batch fail; returns whether the circuit breaker is open."""
        if batch is None or not batch.events:
            self.batch_size.shrink()
            return False
        epoch, entries = batch.start.epoch, batch.stream_slice.entries
        if len(entries) == 1:
            self.batch_size.shrink_to(self.batch_size.count)  # the same entry is tried again
            self.poison.suspect(epoch, entries[0].position, error)
        else:
            self.batch_size.shrink_to(isolating_count(batch, error))
        if self.poison.is_poison(epoch, batch.event_positions[0]):
            self.breaker.failed(batch.events[0].tenant_id)
        if self.breaker.is_open:
            self.poison.clear()
            return True
        return False

    def _is_worth_trying_at_once(self, error: Exception, error_class: ErrorClass) -> bool:
        """Return whether the next batch is smaller and may therefore succeed without a pause."""
        if is_out_of_memory(error):
            return self.batch_size.shrink_for_memory()
        if error_class is ErrorClass.EXTERNAL:
            self.batch_size.shrink()
            return False
        return self.batch_size.consecutive_failures <= NARROWING_STEPS_MAX  # `isolate` has made it smaller
