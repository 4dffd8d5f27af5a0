"""The tables' metadata and column types that mean the same on both databases."""

from typing import Any, TypeAlias

from sqlalchemy import BigInteger, Dialect, MetaData, Text
from sqlalchemy.types import TypeDecorator

Row: TypeAlias = tuple[Any, ...]

metadata = MetaData()

IN_BINARY = {"binary": True}
"""Execution options: PostgreSQL sends bytes and numbers as they are, not as text, which for bytes is twice as long."""


class UnsignedBigInteger(TypeDecorator[int]):
    """A number of 64 bits without a sign, as both halves of an entry id are; the database holds it signed.

    Such columns are compared for equality only.
    """

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, _dialect: Dialect) -> int | None:
        """Return the signed number with the same bits."""
        return value - 2**64 if value is not None and value >= 2**63 else value

    def process_result_value(self, value: int | None, _dialect: Dialect) -> int | None:
        """Return the unsigned number with the same bits."""
        return value + 2**64 if value is not None and value < 0 else value


# Identifiers compare byte by byte on both databases, as they do in Python.
KeyText = Text().with_variant(Text(collation="C"), "postgresql")
