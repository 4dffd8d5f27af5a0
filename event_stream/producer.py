"""Producer: validate events as a worker would, append them, wait until they can be read.

docs/reference/producer.md is its reference.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from pydantic_core import PydanticSerializationError, to_json
from redis import Redis
from redis.exceptions import ReadOnlyError

from event_stream.decoding import check_clock, decode_all
from event_stream.envelope import InvalidEventError, Reason
from event_stream.errors import EventStreamError
from event_stream.event_types import partition_of
from event_stream.settings import StreamSettings
from event_stream.stream import Appended, Progress, Stream

_PIPELINE_MAX = 1_000
_LOOK_EVERY_S = 1.0
_POLL_MIN_S = 0.001
_POLL_MAX_S = 0.05


class BacklogFullError(EventStreamError):
    """A partition holds more entries not yet projected than PROJECTOR_BACKLOG_LIMIT; wait, or start workers."""


class WaitTimeoutError(EventStreamError):
    """A position was not projected in time; it may be later."""


class Prepared(NamedTuple):
    """An event that was found valid: its partition and its bytes."""

    partition: int
    body: bytes


@runtime_checkable
class CloudEvent(Protocol):
    """What the CloudEvents SDK's events have in common, whatever its version."""

    def get_attributes(self) -> Mapping[str, Any]:
        """Return the context attributes."""

    def get_data(self) -> Any:
        """Return the data."""


class Producer:
    """Appends events to the streams. Not to be shared between threads; every append is safe to repeat."""

    def __init__(self, stream: Stream, settings: StreamSettings) -> None:
        """Raises PartitionsMismatchError if the deployment has another number of partitions."""
        self._stream = stream
        self._settings = settings
        self._backlog = _Backlog(stream, settings.backlog_limit)
        stream.check_partitions()
        self._server_ahead_s = stream.now_ms() / 1000 - time.time()

    @classmethod
    def from_url(cls, url: str, settings: StreamSettings | None = None) -> Self:
        """Return a producer for the Redis at `url`; without `settings` they come from the environment.

        A connection that was lost, or leads to a server that has become a replica, is made anew once a request.
        """
        settings = settings or StreamSettings.from_environ(os.environ)
        return cls(Stream(Redis.from_url(url, retry_on_error=[ReadOnlyError]), settings.partitions), settings)

    def append(self, event: Mapping[str, Any] | CloudEvent) -> Appended:
        """Append one event and return where it went.

        Raises InvalidEventError before anything is sent, BacklogFullError, or redis's own errors; after those the
        event may or may not be there, and appending it again with the same id is safe.
        """
        return self.append_many([event])[0]

    def append_many(self, events: Iterable[Mapping[str, Any] | CloudEvent]) -> list[Appended]:
        """Append events in order; all are validated before the first is sent. Raises as `append` does."""
        return self.send(self._prepared([encode(event) for event in events]))

    def prepare(self, body: bytes) -> Prepared:
        """Return an event that is JSON already, judged as a worker would; appends nothing.

        Raises InvalidEventError, or redis's own errors.
        """
        return self._prepared([body])[0]

    def _prepared(self, bodies: Sequence[bytes]) -> list[Prepared]:
        events = decode_all(bodies)
        for event in events:
            self._check_clock(event.time_us)
        return [Prepared(partition_of(event.tenant_id, self._settings.partitions), event.body) for event in events]

    def _check_clock(self, time_us: int) -> None:
        at_ms = int((time.time() + self._server_ahead_s) * 1000)
        try:
            check_clock(time_us, at_ms, self._settings.max_clock_skew_s)
        except InvalidEventError:
            # This host's clock may have been set since it was compared: only the server's own may refuse.
            check_clock(time_us, self._stream.now_ms(), self._settings.max_clock_skew_s)

    def send(self, prepared: Sequence[Prepared]) -> list[Appended]:
        """Append prepared events in order and return where each went. Raises as `append` does but InvalidEventError."""
        self._backlog.reserve(Counter(event.partition for event in prepared))
        return [
            appended
            for first in range(0, len(prepared), _PIPELINE_MAX)
            for appended in self._stream.append(prepared[first : first + _PIPELINE_MAX])
        ]

    def wait_until_projected(self, position: Appended, timeout_s: float = 2.0) -> None:
        """Return once the entry at `position` is projected; raises WaitTimeoutError after `timeout_s`."""
        began_s = time.monotonic()
        while not self.is_projected(position):
            waited_s = time.monotonic() - began_s
            if waited_s >= timeout_s:
                raise WaitTimeoutError(f"{position} was not projected within {timeout_s:g} s; are workers running?")
            # So that a short wait is hardly longer than it has to be, and a long one asks rarely.
            time.sleep(min(max(_POLL_MIN_S, waited_s / 10), _POLL_MAX_S))

    def is_projected(self, position: Appended) -> bool:
        """Return whether reads show the entry at `position`."""
        return self._stream.projected([position.partition])[position.partition].position >= position.position

    def projected(self) -> dict[int, Progress]:
        """Return how far each partition is projected."""
        return self._stream.projected(range(self._settings.partitions))

    @property
    def backlog_limit(self) -> int:
        """How many entries of a partition may wait to be projected."""
        return self._settings.backlog_limit


class _Backlog:
    """What is not yet projected, looked up at most once a second and counted on in between."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._known: Counter[int] = Counter()
        self._looked_at = float("-inf")

    def reserve(self, wanted: Mapping[int, int]) -> None:
        """Count on `wanted` more entries by partition; raises BacklogFullError where they are too many."""
        if time.monotonic() - self._looked_at > _LOOK_EVERY_S or self._over(wanted):
            self._look()
        if over := self._over(wanted):
            raise BacklogFullError(
                f"partition {over[0]} has {self._known[over[0]]:,} entries not yet projected and"
                f" PROJECTOR_BACKLOG_LIMIT is {self._limit:,}; wait, or start workers"
            )
        self._known.update(wanted)

    def _over(self, wanted: Mapping[int, int]) -> list[int]:
        return [partition for partition, count in wanted.items() if self._known[partition] + count > self._limit]

    def _look(self) -> None:
        ends = self._stream.ends()
        progress = self._stream.projected(range(self._stream.partitions))
        # The length bounds it too: after a loss of the whole stream the hint may be from its former life.
        self._known = Counter(
            {
                partition: min(end.length, max(0, end.added - progress[partition].entries))
                for partition, end in enumerate(ends)
            }
        )
        self._looked_at = time.monotonic()


def encode(event: Mapping[str, Any] | CloudEvent) -> bytes:
    """Return the structured JSON of an event that is a mapping or a CloudEvent.

    Raises InvalidEventError for what is neither, or cannot be JSON.
    """
    try:
        # A dict needs no closer look, which takes as long as writing its JSON.
        return to_json(event if isinstance(event, dict) else _mapping(event), inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidEventError(Reason.NOT_JSON, str(error)) from None


def _mapping(event: Mapping[str, Any] | CloudEvent) -> Mapping[str, Any]:
    if isinstance(event, CloudEvent):
        return {**event.get_attributes(), "data": event.get_data()}
    if isinstance(event, Mapping):
        return event
    raise InvalidEventError(Reason.NOT_AN_EVENT, f"a {type(event).__name__}; give a dict or a CloudEvent")
