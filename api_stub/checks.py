"""The checks that need no project (docs/reference/api.md#checks): each returns a value or raises an ApiError."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from cachetools import LRUCache
from starlette.requests import Request

from api_stub import errors, keys
from api_stub.keys import ApiKey, KeyAsk, Kind
from event_stream.envelope import UUID_PATTERN, matches

FindKey: TypeAlias = Callable[[KeyAsk], Awaitable[ApiKey | None]]

HOURS_DEFAULT = 24
HOURS_MAX = 720
_KEYS_CACHED_MAX = 10_000
_SLUG = re.compile(r"[a-z0-9-]{1,100}", re.ASCII)
_HOURS = re.compile(r"[0-9]{1,4}", re.ASCII)
_BEARER = re.compile(r"bearer +(\S+)", re.IGNORECASE)


class KeyRing:
    """Finds the key of a request. Found keys are remembered for `cache_s`: so long may a revoked one still work."""

    def __init__(self, find: FindKey, cache_s: float) -> None:
        self._find = find
        self._cache_s = cache_s
        self._clock = time.monotonic
        self._known: LRUCache[str, tuple[float, ApiKey]] = LRUCache(_KEYS_CACHED_MAX)

    async def reader(self, request: Request, now_us: int) -> ApiKey:
        """Return the request's key, which may read."""
        key = await self._key(_bearer(request))
        if key.revoked_us is not None:
            raise errors.unauthorized("This API key was revoked; use another one.", "API_KEY_REVOKED")
        if key.expires_us is not None and key.expires_us <= now_us:
            raise errors.unauthorized("This API key has expired; use another one.", "API_KEY_EXPIRED")
        if key.kind is Kind.PUB:
            raise errors.forbidden("SECRET_KEY_REQUIRED", "An ss_pub_ key may never read; use a secret key.")
        if "config:read" not in key.permissions:
            raise errors.forbidden("FORBIDDEN", "This API key lacks the permission config:read.")
        return key

    async def _key(self, text: str | None) -> ApiKey:
        presented = keys.parse(text) if text else None
        if presented is None:
            raise errors.unauthorized("Send the header `Authorization: Bearer <key>` with a valid API key.")
        key = await self._stored(presented.key_id)
        if key is None or key.kind is not presented.kind or not key.has_secret(presented.secret):
            raise errors.unauthorized("Unknown API key.")
        return key

    async def _stored(self, key_id: str) -> ApiKey | None:
        asked_at = self._clock()
        known = self._known.get(key_id)
        if known is not None and asked_at - known[0] < self._cache_s:
            return known[1]
        key = await self._find(KeyAsk(key_id))
        if key is not None:
            # What was found is as old as the question.
            self._known[key_id] = (asked_at, key)
        return key


def slug(request: Request) -> str:
    """Return the slug in the path."""
    value = str(request.path_params["slug"])
    if not _SLUG.fullmatch(value):
        raise errors.invalid("slug", "must be 1 to 100 of a-z, 0-9 and -")
    return value


def hours(request: Request) -> int:
    """Return how many hours back to look."""
    values = request.query_params.getlist("hours")
    if not values:
        return HOURS_DEFAULT
    if len(values) == 1 and _HOURS.fullmatch(values[0]) and 1 <= int(values[0]) <= HOURS_MAX:
        return int(values[0])
    raise errors.invalid("hours", f"must be a whole number from 1 to {HOURS_MAX}, given once")


def project_header(request: Request) -> str | None:
    """Return the project that the header X-Project-Id names, None if it is left out."""
    values = request.headers.getlist("X-Project-Id")
    if not values:
        return None
    if len(values) == 1 and matches(UUID_PATTERN, values[0]):
        return values[0]
    raise errors.invalid("X-Project-Id", "must be one lower-case canonical UUID")


def no_min_position(request: Request) -> None:
    """Refuse a header that is not implemented (docs/reference/api.md#x-min-position)."""
    if "X-Min-Position" in request.headers:
        raise errors.not_implemented("X-Min-Position is not supported yet; leave it out.")


def _bearer(request: Request) -> str | None:
    values = request.headers.getlist("Authorization")
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    return match[1] if match else None
