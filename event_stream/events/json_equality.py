"""Equality of JSON values, which decides whether a repeated event is a duplicate or a conflict."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any


def equal_json(one: bytes, other: bytes) -> bool:
    """Return whether two valid bodies are the same JSON value.

    The order of members and white space do not matter. Numbers compare by exact value; `1` and `true` differ.
    """
    return one == other or _parse_exactly(one) == _parse_exactly(other)


def _parse_exactly(body: bytes) -> Any:
    return _tag_booleans(json.loads(body, parse_int=_exact_number, parse_float=_exact_number))


def _exact_number(literal: str) -> Decimal | tuple[str, str]:
    try:
        return Decimal(literal)
    except InvalidOperation:  # Decimal cannot hold the exponent, so only the same literal is equal
        return ("number", literal)


def _tag_booleans(value: Any) -> Any:
    """Replace booleans by tagged values, because in Python 1 == True."""
    match value:
        case bool():
            return ("boolean", value)
        case dict():
            return {key: _tag_booleans(member) for key, member in value.items()}
        case list():
            return [_tag_booleans(item) for item in value]
        case _:
            return value
