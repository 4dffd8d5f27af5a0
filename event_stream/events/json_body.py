"""The rules about the JSON of an event's body: size, depth, no NaN and no U+0000."""

from collections.abc import Sized
from typing import Any

from pydantic_core import from_json

from event_stream.errors import InvalidEventError, Reason

BODY_BYTES_MAX = 65_536
DEPTH_MAX = 64


def parse_json(body: bytes) -> Any:
    """Return the JSON value of a body; raises InvalidEventError with TOO_LARGE or NOT_JSON."""
    if len(body) > BODY_BYTES_MAX:
        raise too_large(len(body))
    try:
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidEventError(Reason.NOT_JSON, str(error)) from None
    if _may_be_deep_or_hold_nul(body):
        _check_depth_and_strings(value)
    return value


def too_large(length: int) -> InvalidEventError:
    """Return the error for a body of this length."""
    return InvalidEventError(Reason.TOO_LARGE, f"{length:,} bytes; at most {BODY_BYTES_MAX:,} are allowed")


def passes_quick_check(body: bytes) -> bool:
    """Return whether a body cannot break these rules if it is JSON. Most events pass this quick check.

    If several bodies pass joined together, each of them passes.
    """
    if len(body) > BODY_BYTES_MAX or _may_be_deep_or_hold_nul(body):
        return False
    # Searching for a single byte first is ten times as fast, and almost no event holds either word.
    return not (b"N" in body and b"NaN" in body) and not (b"I" in body and b"Infinity" in body)


def describe_value(value: object) -> str:
    """Return the JSON type and the length of a value. Messages show this instead of the value itself."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case str():
            return f"string of {_count(value, 'character')}"
        case list():
            return f"array of {_count(value, 'element')}"
        case dict():
            return f"object of {_count(value, 'member')}"
        case _:
            return "number"


def _count(value: Sized, unit: str) -> str:
    return f"{len(value):,} {unit}{'' if len(value) == 1 else 's'}"


def _may_be_deep_or_hold_nul(body: bytes) -> bool:
    """Return whether a body has enough brackets to be too deep, or an escape that may be U+0000."""
    return (b"\\" in body and b"\\u0000" in body) or body.count(b"{") + body.count(b"[") > DEPTH_MAX


def _check_depth_and_strings(value: Any) -> None:
    level = [value]
    depth = 0
    while level:
        children: list[Any] = []
        for node in level:
            if isinstance(node, str) and "\x00" in node:
                raise InvalidEventError(Reason.NOT_JSON, "U+0000 in a string; leave it out")
            if isinstance(node, dict):
                children += node.keys()
                children += node.values()
            elif isinstance(node, list):
                children += node
        if any(isinstance(node, dict | list) for node in level):
            depth += 1
        if depth > DEPTH_MAX:
            raise InvalidEventError(Reason.NOT_JSON, f"nested deeper than {DEPTH_MAX}")
        level = children
