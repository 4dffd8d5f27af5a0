"""Decodes the entries of a stream: all at once if they are valid, or one by one with the reason."""

from json import dumps

from event_stream.errors import InvalidEventError, Reason
from event_stream.events.decoding import Arrival, decode, decode_batch
from event_stream.events.event import Event
from event_stream.streams.entries import Entry
from workers.drain.clocks import Clocks

# How bindings name the attributes of an event in binary mode.
_BINARY_MODE_PREFIXES = (b"ce_", b"ce-", b"cloudevents:", b"cloudevents_")


def decode_valid(entries: list[Entry], arrival: Arrival) -> list[Event] | None:
    """Return the events of entries if all are valid, as they nearly always are; None otherwise."""
    bodies = [body for entry in entries if (body := entry.body) is not None]
    return decode_batch(bodies, arrival) if len(bodies) == len(entries) else None


def decode_entry(entry: Entry, body: bytes | None, arrival: Arrival, clocks: Clocks) -> Event:
    """Return the event of an entry that arrived at `arrival` or later.

    Raises InvalidEventError, or DatabaseClockNeededError if it may be in the future.
    """
    if body is None:
        raise InvalidEventError(Reason.NOT_AN_EVENT, _without_event_detail(entry))
    try:
        return decode(body, arrival)
    except InvalidEventError as error:
        if error.reason is not Reason.TIME_IN_FUTURE:
            raise
    # `arrival` has the time of an earlier entry. The id of this one is parsed only if needed.
    entry_ms = entry.position.ms
    try:
        return decode(body, arrival._replace(now_ms=clocks.now_ms(entry_ms)))
    except InvalidEventError as error:
        detail = f"{error.detail}, by two of three clocks: {clocks.explain(entry_ms)}"
        raise InvalidEventError(error.reason, detail) from None


def fields_as_json(entry: Entry) -> bytes:
    """Return the fields of an entry without the field `event`, readable for an operator.

    A name that is repeated has a list of values. Of a large entry only the size and the digest are known.
    """
    if entry.large is not None:
        return dumps({"size": entry.large.size, "digest": entry.large.digest.hex()}).encode()
    values: dict[str, list[str]] = {}
    for name, value in zip(entry.parts[::2], entry.parts[1::2], strict=True):
        values.setdefault(_text(name), []).append(_text(value))
    fields = {name: each if len(each) > 1 else each[0] for name, each in values.items()}
    return dumps(fields, sort_keys=True).encode()


def _without_event_detail(entry: Entry) -> str:
    detail = "the entry has no field `event`"
    if any(name.lower().startswith(_BINARY_MODE_PREFIXES) for name in entry.fields):
        detail += "; binary mode of CloudEvents is not supported, send structured JSON in the field `event`"
    return detail


def _text(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")
