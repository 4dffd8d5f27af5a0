"""RFC 3339 times as microseconds since 1970 UTC, and back (docs/reference/events.md#time)."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import Field

# datetime.fromisoformat accepts more than RFC 3339 does, so the pattern spells out the ranges.
_HOUR_MINUTE = "([01][0-9]|2[0-3]):[0-5][0-9]"
TIME_PATTERN = rf"^[0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}T{_HOUR_MINUTE}:[0-5][0-9](\.[0-9]+)?(Z|[+-]{_HOUR_MINUTE})$"
_TIME = re.compile(TIME_PATTERN.strip("^$"))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WITHOUT_OFFSET = datetime(1970, 1, 1)  # noqa: DTZ001 (isoformat shows it without an offset)
_MICROSECOND = timedelta(microseconds=1)
# An offset can move a valid time past the year 9999, which datetime cannot hold.
_LATEST_US = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND

TimeText = Annotated[
    str,
    Field(
        pattern=TIME_PATTERN,
        description="When the event happened: RFC 3339 with an offset, 1970 or later. Digits of the fraction beyond"
        " microseconds are cut off.",
    ),
]


def parse_time(text: object) -> int:
    """Return an RFC 3339 time in microseconds since 1970 UTC, without the fraction's digits after the sixth.

    Raises ValueError for anything that docs/reference/events.md#time does not allow.
    """
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise ValueError("must be RFC 3339 with an offset, such as 2026-04-25T14:30:12Z")
    return parse_valid_time(text)


def parse_valid_time(text: str) -> int:
    """Do what `parse_time` does for a text that matches TIME_PATTERN; raises ValueError if there is no such time."""
    time_us = (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
    if time_us < 0:
        raise ValueError("must be 1970 or later")
    return time_us


def format_time(time_us: int) -> str:
    """Return microseconds since 1970 UTC as RFC 3339 with `Z`, without trailing zeros or an empty fraction."""
    text = (_EPOCH_WITHOUT_OFFSET + min(time_us, _LATEST_US) * _MICROSECOND).isoformat()
    return (text.rstrip("0") if "." in text else text) + "Z"
