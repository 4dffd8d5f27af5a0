"""Checks of server URLs. No message contains a part of the URL, because a mistyped password may be in any of them."""

import re
from collections.abc import Collection
from urllib.parse import SplitResult, parse_qsl, urlsplit

from event_stream.errors import EventStreamError

_REDIS_SCHEMES = ("redis", "rediss", "unix")
_REDIS_OPTIONS = ("db", "username", "password", "client_name", "health_check_interval")
_TCP_OPTIONS = ("socket_keepalive",)
_TLS_OPTIONS = (
    *("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile", "ssl_password"),
    *("ssl_cert_reqs", "ssl_check_hostname"),
)
_NUMBER = ("[0-9]+", "a whole number")
_BOOLEAN = ("true|false|yes|no|1|0", "true or false")
_VALUES = {
    "db": _NUMBER,
    "health_check_interval": _NUMBER,
    "socket_keepalive": _BOOLEAN,
    "ssl_check_hostname": _BOOLEAN,
    "ssl_cert_reqs": ("none|optional|required", "none, optional or required"),
}


class ServerUrlError(EventStreamError, ValueError):
    """A URL of a server cannot be used. The message says what is wrong and what is allowed."""


def check_encoding(url: str) -> None:
    """Raise ServerUrlError if the user name or password has a character that must be percent-encoded.

    Such a URL has several readings, and most of them take a part of the password for a host, which errors show.
    """
    rest = url.partition("://")[2]
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :] or authority.count("@") > 1:
        raise ServerUrlError(
            "percent-encode the user name and password: write @ as %40, / as %2F, ? as %3F, # as %23, : as %3A"
        )


def options_of(query: str, allowed: Collection[str], described: str) -> list[tuple[str, str]]:
    """Return the names and values of a URL's options.

    Raises ServerUrlError, with a description of the allowed ones, if one is not in `allowed`.
    """
    try:
        options = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError:
        raise ServerUrlError("each option after the ? must be name=value") from None
    for number, (name, _) in enumerate(options, 1):
        if name not in allowed:
            raise ServerUrlError(f"option {number} after the ? is not supported; allowed are {described}")
    return options


def check_redis_url(url: str) -> None:
    """Raise ServerUrlError unless redis-py can connect to a URL and gives each part of it the obvious meaning."""
    check_encoding(url)
    parts = _split(url)
    if url.partition("://")[0] not in _REDIS_SCHEMES:
        raise ServerUrlError("must be redis://host:6379/0, rediss://… or unix://…")
    if parts.fragment or "#" in url:
        raise ServerUrlError("must not contain #; percent-encode it as %23")
    allowed = _options_for(parts.scheme)
    options = options_of(parts.query, allowed, ", ".join(allowed))
    for name, value in options:
        pattern, described = _VALUES.get(name, (".+", "set"))
        if not re.fullmatch(pattern, value, re.IGNORECASE):
            raise ServerUrlError(f"the option {name} must be {described}")
    if len(dict(options)) < len(options):
        raise ServerUrlError("an option after the ? is repeated; write it once")
    if parts.scheme == "unix":
        if not parts.path.strip("/"):
            raise ServerUrlError("a unix:// URL needs the path of the socket, such as unix:///run/redis.sock?db=0")
    elif not re.fullmatch("/?|/[0-9]+", parts.path):
        raise ServerUrlError("the path after the host must be the number of a database, such as /0")


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        is_valid = parts.port is None or parts.port > 0
    except ValueError:
        is_valid = False
    if not is_valid:
        raise ServerUrlError("the host or port is not valid; a port is a number from 1 to 65535")
    return parts


def _options_for(scheme: str) -> tuple[str, ...]:
    if scheme == "unix":
        return _REDIS_OPTIONS
    return _REDIS_OPTIONS + _TCP_OPTIONS + (_TLS_OPTIONS if scheme == "rediss" else ())
