"""Describes what is wrong with an event, from the errors of pydantic, without quoting the event."""

from pydantic import ValidationError

from event_stream.events.json_body import describe_value
from event_stream.events.patterns import ALLOWED


def problem(path: str, value: object, message: str) -> str:
    """Return what is wrong with the value at a path. Only the type and length of the value are shown."""
    return f"{path} ({describe_value(value)}): {message}"


def first_problem(error: ValidationError, inside: str = "") -> str:
    """Return the first problem of a pydantic error on one line: the path, the type and length, and what is allowed.

    `inside` is the first part of the path, which is left out.
    """
    first = error.errors(include_url=False)[0]
    path = ".".join(map(str, first["loc"])).removeprefix(f"{inside}.")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = f"must be {ALLOWED[first['ctx']['pattern']]}"
    return f"{path}: {message}" if first["type"] == "missing" else problem(path, first["input"], message)
