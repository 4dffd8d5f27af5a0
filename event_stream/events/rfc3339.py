"""RFC 3339 times as microseconds since 1970 UTC, and back (docs/reference/events.md#time)."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field

from event_stream.events.patterns import ALLOWED, TIME_PATTERN, matches

_WITHOUT_SECONDS = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d([Zz]|[+-]\d\d:\d\d)?")
_WITHOUT_OFFSET = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WITHOUT_OFFSET = datetime(1970, 1, 1)  # noqa: DTZ001 (isoformat shows it without an offset)
_MINUTE_LENGTH, _SECOND_US = len("2026-04-25T14:30"), 1_000_000
_MICROSECOND = timedelta(microseconds=1)
# An offset can move a valid time past the year 9999, which datetime cannot hold.
_LATEST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

TimeText = Annotated[
    str,
    Field(
        pattern=TIME_PATTERN,
        description="When the event happened: RFC 3339 with an offset, 1970 or later. Digits of the fraction beyond"
        " microseconds are cut off. A leap second (`:60`) is the first second of the next minute.",
    ),
]


def parse_time(text: object) -> int:
    """Return an RFC 3339 time in microseconds since 1970 UTC, without the fraction's digits after the sixth.

    Raises ValueError for anything that docs/reference/events.md#time does not allow.
    """
    if not isinstance(text, str) or not matches(TIME_PATTERN, text):
        raise ValueError(f"{_missing_part(text)}must be {ALLOWED[TIME_PATTERN]}")
    return parse_valid_time(text)


def parse_valid_time(text: str) -> int:
    """Do what `parse_time` does for a text that matches TIME_PATTERN; raises ValueError if there is no such time."""
    try:
        time_us = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
    except ValueError:
        time_us = _parse_uncommon_time(text.upper())
    if time_us < 0:
        raise ValueError("must be 1970 or later")
    return time_us


def format_time(time_us: int) -> str:
    """Return microseconds since 1970 UTC as RFC 3339 with `Z`, without trailing zeros or an empty fraction."""
    text = (_EPOCH_WITHOUT_OFFSET + min(time_us, _LATEST_US) * _MICROSECOND).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"


def _parse_uncommon_time(text: str) -> int:
    """Return the time of a text in upper case that datetime.fromisoformat refuses; raises ValueError."""
    leap = text[_MINUTE_LENGTH : _MINUTE_LENGTH + 3] == ":60"
    if leap:
        text = f"{text[:_MINUTE_LENGTH]}:59{text[_MINUTE_LENGTH + 3 :]}"
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND + leap * _SECOND_US


def _missing_part(text: object) -> str:
    if isinstance(text, str) and _WITHOUT_SECONDS.fullmatch(text):
        return "has no seconds; "
    if isinstance(text, str) and _WITHOUT_OFFSET.fullmatch(text):
        return "has no offset; "
    return ""
