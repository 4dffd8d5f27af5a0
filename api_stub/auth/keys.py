"""API keys: create, store as hashes, look up, revoke (docs/reference/api.md#keys).

A key's text is `ss_<kind>_<key id>_<secret>`. The id is the primary key of its row
(docs/decisions/0040-store-api-keys-as-hashes.md).
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
from projections.database import key_queries
from projections.database.columns import KeyText, Row, metadata

PERMISSIONS = ("config:read", "config:write", "analysis:read", "analysis:create")
_FORMAT = re.compile(r"ss_(secret|org|pub)_([0-9a-f]{16})_([A-Za-z0-9]{43})", re.ASCII)
_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class KeyKind(StrEnum):
    """What a key may read: `secret` one project, `org` all projects of one tenant, `pub` (for SDKs) nothing."""

    SECRET = "secret"  # noqa: S105 (not a secret, but a kind of key)
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


class KeyId(NamedTuple):
    """The id of an API key, as the key of a lookup."""

    key_id: str


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A stored key; times are microseconds since 1970 UTC."""

    key_id: str
    secret_sha256: str
    kind: KeyKind
    tenant_id: str
    project_id: str | None
    permissions: frozenset[str]
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None

    def has_secret(self, secret: str) -> bool:
        """Return whether `secret` is this key's secret, compared in constant time."""
        return compare_digest(self.secret_sha256, sha256(secret.encode()).hexdigest())


class ParsedKey(NamedTuple):
    """The parts of a key's text."""

    kind: KeyKind
    key_id: str
    secret: str


def parse(text: str) -> ParsedKey | None:
    """Return the parts of a key's text, or None if it is malformed."""
    match = _FORMAT.fullmatch(text)
    return ParsedKey(KeyKind(match[1]), match[2], match[3]) if match else None


def create(
    connection: Connection,
    kind: KeyKind,
    tenant_id: str,
    project_id: str | None,
    permissions: frozenset[str],
    now_us: int,
    expires_us: int | None = None,
) -> tuple[str, ApiKey]:
    """Store a new key. Returns its text, which is not stored, and the stored key."""
    key_id = secrets.token_hex(8)
    secret = "".join(secrets.choice(_ALPHABET) for _ in range(43))
    secret_sha256 = sha256(secret.encode()).hexdigest()
    key = ApiKey(key_id, secret_sha256, kind, tenant_id, project_id, permissions, now_us, expires_us)
    connection.execute(insert(table).values(_columns(key)))
    return f"ss_{kind}_{key_id}_{secret}", key


def find_many(connection: Connection, key_ids: Sequence[str]) -> dict[str, ApiKey]:
    """Return the keys with these ids, by id; an id without a key is left out."""
    found = lookup.read(connection, [KeyId(key_id) for key_id in key_ids])
    return {lookup_key.key_id: key for lookup_key, key in found.items()}


def list_all(connection: Connection) -> list[ApiKey]:
    """Return all keys, oldest first."""
    rows = connection.execute(select(table).order_by(table.c.created_us, table.c.key_id))
    return [_from_row(tuple(row)) for row in rows]


def revoke(connection: Connection, key_id: str, now_us: int) -> bool:
    """Revoke a key unless it is revoked already. Returns whether the key exists."""
    if not find_many(connection, [key_id]):
        return False
    not_revoked = (table.c.key_id == key_id) & table.c.revoked_us.is_(None)
    connection.execute(update(table).where(not_revoked).values(revoked_us=now_us))
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


def _from_row(row: Row) -> ApiKey:
    key_id, secret_sha256, kind, tenant_id, project_id, permissions, *times = row
    return ApiKey(key_id, secret_sha256, KeyKind(kind), tenant_id, project_id, frozenset(permissions.split()), *times)


def _results(rows: Iterable[Row]) -> dict[KeyId, ApiKey]:
    return {KeyId(row[0]): _from_row(row) for row in rows}


@cache
def _statement(dialect_name: str) -> Select[Any]:
    return key_queries.find_rows_statement(dialect_name, table, tuple(table.columns))


lookup = Lookup(_statement, _results)
"""Looks up API keys by id."""
