"""`Producer`: validate events, append them to the streams, and wait until reads show them.

Reference: docs/reference/producer.md
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from redis import Redis
from redis.exceptions import ReadOnlyError

from event_stream.errors import EventStreamError, InvalidEventError
from event_stream.events.decoding import check_clock, decode_all
from event_stream.events.encoding import CloudEvent, encode
from event_stream.events.event import partition_of
from event_stream.server_urls import check_redis_url
from event_stream.settings import StreamSettings
from event_stream.streams.appending import Appended
from event_stream.streams.backlog import Backlog
from event_stream.streams.deployment import DeploymentPin
from event_stream.streams.stream import ProjectedPosition, Stream

_APPEND_MAX = 1_000
_POLL_MIN_S = 0.001
_POLL_MAX_S = 0.05


class WaitTimeoutError(EventStreamError):
    """A position was not projected in time. It may be projected later."""


class Prepared(NamedTuple):
    """A valid event, ready to be appended: its partition and its bytes."""

    partition: int
    body: bytes


class Producer:
    """Appends events to the streams. Repeating an append is safe. Do not share a producer between threads."""

    def __init__(self, stream: Stream, settings: StreamSettings) -> None:
        """Raise PartitionsMismatchError if `settings` has another number of partitions than the streams."""
        self._stream = stream
        self._settings = settings
        self._backlog = Backlog(stream, settings.backlog_limit)
        stream.check_partitions()

    @classmethod
    def from_url(cls, url: str, settings: StreamSettings | None = None) -> Self:
        """Return a producer for the Redis at `url`; without `settings` they come from the environment.

        A request retries once on a new connection if its connection was lost or the server has become a replica. A
        connection that leads to the Redis of another deployment than the first one raises DeploymentMismatchError.

        Raises ServerUrlError, whose message contains no part of the URL.
        """
        check_redis_url(url)
        settings = settings or StreamSettings.from_environ(os.environ)
        pin = DeploymentPin()
        redis = Redis.from_url(url, retry_on_error=[ReadOnlyError], redis_connect_func=pin.on_redis_connect)
        return cls(Stream(redis, settings.partitions), settings)

    def append(self, event: Mapping[str, Any] | CloudEvent) -> Appended:
        """Append one event and return its partition and position.

        Raises InvalidEventError or BacklogFullError before anything is sent, or an error of redis-py. After the latter
        the event may have been appended; append it again with the same id.
        """
        return self.append_many([event])[0]

    def append_many(self, events: Iterable[Mapping[str, Any] | CloudEvent]) -> list[Appended]:
        """Append events in order, after validating all of them; raises as `append` does."""
        return self.send(self._validate([encode(event) for event in events]))

    def prepare(self, body: bytes) -> Prepared:
        """Validate an event that is JSON already, and return it for `send`.

        Raises InvalidEventError, or an error of redis-py.
        """
        return self._validate([body])[0]

    def send(self, prepared: Sequence[Prepared]) -> list[Appended]:
        """Append prepared events in order; raises BacklogFullError, or an error of redis-py as `append` does."""
        self._backlog.reserve(Counter(event.partition for event in prepared))
        return [
            appended
            for first in range(0, len(prepared), _APPEND_MAX)
            for appended in self._stream.append(prepared[first : first + _APPEND_MAX])
        ]

    def wait_until_projected(self, position: Appended, timeout_s: float = 2.0) -> None:
        """Wait until reads show the event at `position`; raises WaitTimeoutError after `timeout_s` seconds."""
        began_s = time.monotonic()
        while not self.is_projected(position):
            waited_s = time.monotonic() - began_s
            if waited_s >= timeout_s:
                raise WaitTimeoutError(f"{position} was not projected within {timeout_s:g} s; are workers running?")
            # Poll often at first, so that a short wait ends quickly, then less and less often.
            time.sleep(min(max(_POLL_MIN_S, waited_s / 10), _POLL_MAX_S))

    def is_projected(self, position: Appended) -> bool:
        """Return whether reads show the event at `position`."""
        return self._stream.projected([position.partition])[position.partition].position >= position.position

    def projected(self) -> dict[int, ProjectedPosition]:
        """Return how far each partition is projected."""
        return self._stream.projected(range(self._settings.partitions))

    @property
    def backlog_limit(self) -> int:
        """How many entries of a partition may wait to be projected."""
        return self._settings.backlog_limit

    def _validate(self, bodies: Sequence[bytes]) -> list[Prepared]:
        events = decode_all(bodies)
        for event in events:
            self._check_clock(event.time_us)
        return [Prepared(partition_of(event.tenant_id, self._settings.partitions), event.body) for event in events]

    def _check_clock(self, time_us: int) -> None:
        """Raise InvalidEventError if the time is in the future by this host's clock and by the server's."""
        try:
            check_clock(time_us, int(time.time() * 1000), self._settings.max_clock_skew_s)
        except InvalidEventError:
            check_clock(time_us, self._stream.now_ms(), self._settings.max_clock_skew_s)
