"""API keys: made, stored as hashes, looked up, revoked (docs/reference/api.md#keys).

A key reads `ss_<kind>_<key id>_<secret>`: the id finds the row by its primary key, the secret is compared as a hash in
constant time. It holds 256 random bits, so a plain SHA-256 cannot be guessed backwards.
"""

import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from hashlib import sha256
from hmac import compare_digest
from typing import Any, NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Select, Table, insert, select, update

from api_stub.lookups.lookup import Lookup
from projections.database import bulk
from projections.database.columns import KeyText, Row, metadata

PERMISSIONS = ("config:read", "config:write", "analysis:read", "analysis:create")
_FORMAT = re.compile(r"ss_(secret|org|pub)_([0-9a-f]{16})_([A-Za-z0-9]{43})", re.ASCII)
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Kind(StrEnum):
    """What a key is bound to: `secret` one project, `org` one tenant; `pub` is for SDKs and may never read."""

    SECRET = "secret"  # noqa: S105 (a kind of key, no key)
    ORG = "org"
    PUB = "pub"


table = Table(
    "api_key",
    metadata,
    Column("key_id", KeyText, primary_key=True),
    Column("secret_sha256", KeyText, nullable=False),
    Column("kind", KeyText, nullable=False),
    Column("tenant_id", KeyText, nullable=False),
    Column("project_id", KeyText),
    Column("permissions", KeyText, nullable=False),
    Column("created_us", BigInteger, nullable=False),
    Column("expires_us", BigInteger),
    Column("revoked_us", BigInteger),
)


class KeyAsk(NamedTuple):
    """Which key."""

    key_id: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key; times are microseconds since 1970 UTC."""

    key_id: str
    secret_sha256: str
    kind: Kind
    tenant_id: str
    project_id: str | None
    permissions: frozenset[str]
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None

    def has_secret(self, secret: str) -> bool:
        """Return whether `secret` is this key's, in a time that does not depend on where they differ."""
        return compare_digest(self.secret_sha256, sha256(secret.encode()).hexdigest())


class Presented(NamedTuple):
    """A key as a request shows it."""

    kind: Kind
    key_id: str
    secret: str


def parse(text: str) -> Presented | None:
    """Return what a key's text says, or None for what cannot be a key."""
    match = _FORMAT.fullmatch(text)
    return Presented(Kind(match[1]), match[2], match[3]) if match else None


def create(
    connection: Connection,
    kind: Kind,
    tenant_id: str,
    project_id: str | None,
    permissions: frozenset[str],
    now_us: int,
    expires_us: int | None = None,
) -> tuple[str, ApiKey]:
    """Store a new key; returns its text, which nobody can show again, and what is stored of it."""
    key_id = secrets.token_hex(8)
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(43))
    hashed = sha256(secret.encode()).hexdigest()
    key = ApiKey(key_id, hashed, kind, tenant_id, project_id, permissions, now_us, expires_us)
    connection.execute(insert(table).values(_columns(key)))
    return f"ss_{kind}_{key_id}_{secret}", key


def find_many(connection: Connection, key_ids: Sequence[str]) -> dict[str, ApiKey]:
    """Return the keys with these ids, by id; an id without a key is left out."""
    found = lookup.read(connection, [KeyAsk(key_id) for key_id in key_ids])
    return {ask.key_id: key for ask, key in found.items()}


def list_all(connection: Connection) -> list[ApiKey]:
    """Return all keys, oldest first."""
    rows = connection.execute(select(table).order_by(table.c.created_us, table.c.key_id))
    return [_loaded(tuple(row)) for row in rows]


def revoke(connection: Connection, key_id: str, now_us: int) -> bool:
    """Revoke a key, now or, if it is already, not again; returns whether there is such a key."""
    if not find_many(connection, [key_id]):
        return False
    not_yet = (table.c.key_id == key_id) & table.c.revoked_us.is_(None)
    connection.execute(update(table).where(not_yet).values(revoked_us=now_us))
    return True


def _columns(key: ApiKey) -> dict[str, object]:
    return {
        "key_id": key.key_id,
        "secret_sha256": key.secret_sha256,
        "kind": key.kind.value,
        "tenant_id": key.tenant_id,
        "project_id": key.project_id,
        "permissions": " ".join(sorted(key.permissions)),
        "created_us": key.created_us,
        "expires_us": key.expires_us,
        "revoked_us": key.revoked_us,
    }


def _loaded(row: Row) -> ApiKey:
    key_id, secret_sha256, kind, tenant_id, project_id, permissions, *times = row
    return ApiKey(key_id, secret_sha256, Kind(kind), tenant_id, project_id, frozenset(permissions.split()), *times)


def _answers(rows: Iterable[Row]) -> dict[KeyAsk, ApiKey]:
    return {KeyAsk(row[0]): _loaded(row) for row in rows}


@cache
def _statement(dialect_name: str) -> Select[Any]:
    return bulk.find_statement(dialect_name, table, tuple(table.columns))


lookup = Lookup(_statement, _answers)
"""The keys with the ids asked for; an id without a key is left out."""
