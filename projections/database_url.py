"""Reads DATABASE_URL: which spellings are allowed, and the URL for SQLAlchemy."""

import re
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus, unquote

from psycopg import pq
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

from event_stream.server_urls import ServerUrlError, check_encoding, options_of

ALLOWED = "sqlite:///path or postgresql://user:password@host:port/name"
_POSTGRESQL = ("postgres", "postgresql", "postgresql+psycopg")
_REPEATABLE = ("host", "port")
_OPTIONS = frozenset(option.keyword.decode() for option in pq.Conninfo.get_defaults())


def sqlite_url(file: Path) -> str:
    """Return the URL of an SQLite file; its path may contain any character."""
    return URL.create("sqlite", database=str(file)).render_as_string()


def parse(text: str) -> URL:
    """Return the URL for SQLAlchemy, in which `postgres://` and `postgresql://` use psycopg 3.

    Raises ServerUrlError, whose message never contains a part of the URL.
    """
    scheme = text.partition("://")[0]
    if scheme == "sqlite":
        return _sqlite(text)
    if scheme in _POSTGRESQL:
        return _postgresql(text)
    raise ServerUrlError(f"must be {ALLOWED}")


def _sqlite(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        raise ServerUrlError(f"must be {ALLOWED}") from None
    # SQLAlchemy passes the options of a file URI, such as `file:/path?mode=ro&uri=true`, on to SQLite.
    is_uri = url.query.get("uri") == "true" and (url.database or "").startswith("file:")
    if url.host or url.username or url.password or url.port or (url.query and not is_uri):
        raise ServerUrlError(
            "an SQLite URL has a path only: sqlite:///relative/path or sqlite:////absolute/path; write ? as %3F"
        )
    if not url.database or url.database == ":memory:":
        raise ServerUrlError("an SQLite URL needs a path: processes do not share a database in memory")
    return url


def _postgresql(text: str) -> URL:
    check_encoding(text)
    names = [name for name, _ in options_of(text.partition("?")[2], _OPTIONS, "the connection parameters of libpq")]
    if any(names.count(name) > 1 for name in set(names) if name not in _REPEATABLE):
        raise ServerUrlError("an option after the ? is repeated; write it once")
    try:
        url = make_url(_hosts_as_options(text)).set(drivername="postgresql+psycopg")
        arguments: MutableMapping[str, Any] = url.get_dialect()().create_connect_args(url)[1]
    except (ArgumentError, ValueError):
        raise ServerUrlError(f"must be {ALLOWED}; several hosts are host1:5432,host2:5432") from None
    if url.port == 0 or any(port and not 0 < int(port) < 65_536 for port in str(arguments.get("port", "")).split(",")):
        raise ServerUrlError("a port is a number from 1 to 65535")
    return url


def _hosts_as_options(text: str) -> str:
    """Return a URL in the form in which SQLAlchemy accepts several hosts, and the folder of a socket: as options."""
    scheme, _, rest = text.partition("://")
    authority = re.split("[/?]", rest, maxsplit=1)[0]
    user, at, hosts = authority.rpartition("@")
    if "," not in hosts and "%" not in hosts:
        return text
    pairs = [re.fullmatch(r"(\[[^\]]+\]|[^:]*)(?::([0-9]+))?", host) for host in hosts.split(",")]
    found = [pair.groups(default="5432") for pair in pairs if pair]
    if len(found) < len(pairs):
        raise ServerUrlError("each of several hosts must be host:port")
    query = f"host={_joined(found, 0)}&port={_joined(found, 1)}"
    path, mark, options = rest[len(authority) :].partition("?")
    return f"{scheme}://{user}{at}{path or '/'}?{query}" + (f"&{options}" if mark else "")


def _joined(hosts: list[tuple[str, ...]], index: int) -> str:
    return quote_plus(",".join(unquote(host[index]).strip("[]") for host in hosts))
