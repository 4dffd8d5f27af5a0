"""The tables' metadata, and values and column types that behave the same on both databases."""

from typing import Any, TypeAlias

from sqlalchemy import MetaData, Text

Row: TypeAlias = tuple[Any, ...]

metadata = MetaData()

BINARY_RESULTS = {"binary": True}
"""Execution options that make PostgreSQL send results in binary, which halves the size of bytes."""

# Identifiers compare byte by byte on both databases, as they do in Python.
KeyText = Text().with_variant(Text(collation="C"), "postgresql")


def to_signed(number: int) -> int:
    """Return the signed 64-bit number with the bits of an unsigned one, such as each half of an entry id.

    Compare such columns for equality only.
    """
    return number - 2**64 if number >= 2**63 else number


def to_unsigned(number: int) -> int:
    """Return the unsigned 64-bit number with the bits of a signed one."""
    return number % 2**64
