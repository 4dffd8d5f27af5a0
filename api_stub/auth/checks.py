"""Authentication and authorisation of requests by API key (docs/reference/api.md#checks)."""

import re
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from cachetools import LRUCache
from starlette.requests import Request

from api_stub import errors
from api_stub.auth import keys
from api_stub.auth.keys import ApiKey, KeyId, KeyKind

FindKey: TypeAlias = Callable[[KeyId], Awaitable[ApiKey | None]]

_KEYS_CACHED_MAX = 10_000
_BEARER = re.compile(r"bearer +(\S+)[ \t]*", re.IGNORECASE)


class Authenticator:
    """Checks the API key of a request.

    Keys are cached for `cache_s` seconds. A revoked key may still work for that long.
    """

    def __init__(self, find: FindKey, cache_s: float) -> None:
        self._find = find
        self._cache_s = cache_s
        self._clock = time.monotonic
        self._cached: LRUCache[str, tuple[float, ApiKey]] = LRUCache(_KEYS_CACHED_MAX)

    async def authorize_read(self, request: Request, now_us: int) -> ApiKey:
        """Return the request's key. Raises an ApiError unless the key is valid and may read."""
        key = await self._authenticate(_bearer_token(request))
        if key.revoked_us is not None:
            raise errors.unauthorized("This API key was revoked; use another one.", "API_KEY_REVOKED")
        if key.expires_us is not None and key.expires_us <= now_us:
            raise errors.unauthorized("This API key has expired; use another one.", "API_KEY_EXPIRED")
        if key.kind is KeyKind.PUB:
            raise errors.forbidden(
                "SECRET_KEY_REQUIRED", "An ss_pub_ key cannot read; use an ss_secret_ or ss_org_ key."
            )
        if "config:read" not in key.permissions:
            raise errors.forbidden("FORBIDDEN", "This API key lacks the permission config:read.")
        return key

    async def _authenticate(self, token: str | None) -> ApiKey:
        presented = keys.parse(token) if token else None
        if presented is None:
            raise errors.unauthorized("Send the header `Authorization: Bearer <key>` with a valid API key.")
        key = await self._find_cached(presented.key_id)
        if key is None or key.kind is not presented.kind or not key.has_secret(presented.secret):
            raise errors.unauthorized("Unknown API key.")
        return key

    async def _find_cached(self, key_id: str) -> ApiKey | None:
        began_s = self._clock()
        cached = self._cached.get(key_id)
        if cached is not None and began_s - cached[0] < self._cache_s:
            return cached[1]
        key = await self._find(KeyId(key_id))
        if key is not None:
            # The time before the lookup: the key may have been revoked while it ran.
            self._cached[key_id] = (began_s, key)
        return key


def _bearer_token(request: Request) -> str | None:
    values = request.headers.getlist("Authorization")
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    return match[1] if match else None
