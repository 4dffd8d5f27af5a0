"""The tables' metadata, and column types that behave the same on both databases."""

from typing import Any, TypeAlias

from sqlalchemy import BigInteger, Dialect, MetaData, Text
from sqlalchemy.types import TypeDecorator

Row: TypeAlias = tuple[Any, ...]

metadata = MetaData()

BINARY_RESULTS = {"binary": True}
"""Execution options that make PostgreSQL send results in binary, which halves the size of bytes."""

# Identifiers compare byte by byte on both databases, as they do in Python.
KeyText = Text().with_variant(Text(collation="C"), "postgresql")


class UnsignedBigInteger(TypeDecorator[int]):
    """An unsigned 64-bit number, such as each half of an entry id, stored as a signed one with the same bits.

    Compare such columns for equality only.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, _dialect: Dialect) -> int | None:
        """Return the signed number with the same bits."""
        return value - 2**64 if value is not None and value >= 2**63 else value

    def process_result_value(self, value: int | None, _dialect: Dialect) -> int | None:
        """Return the unsigned number with the same bits."""
        return value + 2**64 if value is not None and value < 0 else value
