"""The event format and the streams that carry events. Producers import this package, which needs redis and pydantic."""

from event_stream.errors import EventStreamError, InvalidEventError, Reason
from event_stream.producer import Producer, WaitTimeoutError
from event_stream.streams.appending import Appended
from event_stream.streams.backlog import BacklogFullError
from event_stream.streams.deployment import DeploymentMismatchError
from event_stream.streams.entries import Position
from event_stream.streams.stream import PartitionsMismatchError

__all__ = [
    "Appended",
    "BacklogFullError",
    "DeploymentMismatchError",
    "EventStreamError",
    "InvalidEventError",
    "PartitionsMismatchError",
    "Position",
    "Producer",
    "Reason",
    "WaitTimeoutError",
]
