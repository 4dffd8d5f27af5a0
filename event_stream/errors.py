"""The errors that this package raises, and the reasons why an event is invalid."""

from enum import StrEnum

DETAIL_LENGTH_MAX = 300


class EventStreamError(Exception):
    """Base class of the errors about events and streams."""


class Reason(StrEnum):
    """Why an entry can never be applied, in the order of the checks (docs/reference/events.md#reasons)."""

    TOO_LARGE = "too_large"
    NOT_JSON = "not_json"
    NOT_AN_EVENT = "not_an_event"
    WRONG_PARTITION = "wrong_partition"
    UNKNOWN_TYPE = "unknown_type"
    INVALID_DATA = "invalid_data"
    TIME_IN_FUTURE = "time_in_future"
    ID_CONFLICT = "id_conflict"
    FOLD_FAILED = "fold_failed"


class InvalidEventError(EventStreamError):
    """An event can never be applied. `reason` names the rule, `detail` the path, type and length of the value."""

    def __init__(self, reason: Reason, detail: str) -> None:
        self.reason = reason
        self.detail = _printable(detail)
        super().__init__(f"{reason}: {self.detail}")


def _printable(text: str) -> str:
    """Return a text that databases and terminals accept: valid UTF-8 without NUL, cut to DETAIL_LENGTH_MAX."""
    clean = text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
    return clean if len(clean) <= DETAIL_LENGTH_MAX else clean[: DETAIL_LENGTH_MAX - 1] + "…"
