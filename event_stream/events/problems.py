"""Describes what is wrong with an event, from the errors of pydantic."""

from pydantic import ValidationError

from event_stream.events.patterns import ALLOWED


def first_problem(error: ValidationError, inside: str = "") -> str:
    """Return the first problem of a pydantic error on one line: the path, what is allowed, and the value.

    `inside` is the first part of the path, which is left out.
    """
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"])).removeprefix(f"{inside}.")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = f"must be {ALLOWED[first['ctx']['pattern']]}"
    if first["type"] == "missing" or isinstance(first["input"], dict):
        return f"{where}: {message}"
    return f"{where}: {message}, not {first['input']!r:.80}"
