"""The fingerprint of an event id: the same number in Python and in SQL on both databases."""

from hashlib import sha256
from typing import Any

from sqlalchemy import BigInteger
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

_BYTES = 4


def fingerprint_of(event_id: str) -> int:
    """Return 32 bits of the SHA-256 of an event id. Sequential ids do not cancel each other out in sums."""
    return int.from_bytes(sha256(event_id.encode()).digest()[:_BYTES])


class fingerprint(GenericFunction[int]):  # noqa: N801 (named like the SQL function)
    """The SQL expression for the fingerprint of an event id."""

    type = BigInteger()
    inherit_cache = True


@compiles(fingerprint, "postgresql")
def _in_postgresql(element: fingerprint, compiler: SQLCompiler, **options: Any) -> str:
    hashed = f"sha256(convert_to({compiler.process(element.clauses, **options)}, 'UTF8'))"
    return f"('x' || encode(substr({hashed}, 1, {_BYTES}), 'hex'))::bit({8 * _BYTES})::bigint"
