"""The check of the key that a request presents (docs/reference/api.md#checks)."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from cachetools import LRUCache
from starlette.requests import Request

from api_stub import errors
from api_stub.auth import keys
from api_stub.auth.keys import ApiKey, KeyAsk, Kind

FindKey: TypeAlias = Callable[[KeyAsk], Awaitable[ApiKey | None]]

_KEYS_CACHED_MAX = 10_000
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


def _bearer(request: Request) -> str | None:
    values = request.headers.getlist("Authorization")
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    return match[1] if match else None
