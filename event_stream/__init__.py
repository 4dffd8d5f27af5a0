"""What a fact is and how it travels: all that a producer imports (redis and pydantic; no SQL, no RQ)."""

from event_stream.entries import Position
from event_stream.envelope import InvalidEventError, Reason
from event_stream.errors import EventStreamError
from event_stream.producer import BacklogFullError, Producer, WaitTimeoutError
from event_stream.stream import Appended, PartitionsMismatchError

__all__ = [
    "Appended",
    "BacklogFullError",
    "EventStreamError",
    "InvalidEventError",
    "PartitionsMismatchError",
    "Position",
    "Producer",
    "Reason",
    "WaitTimeoutError",
]
