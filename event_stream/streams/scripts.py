"""Scripts that run on the server. Each reads one key, so they also run on a cluster and on a full server."""

from collections.abc import Sequence
from hashlib import sha1
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from event_stream.errors import EventStreamError


class RedisTooOldError(EventStreamError):
    """The server does not count the entries ever added to a stream, so lost entries could not be detected."""

    def __init__(self) -> None:
        super().__init__("this Redis is too old to count the entries ever added; use Redis 7.0 or Valkey 8, or newer")


class Script:
    """A script that changes nothing."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()


class Call(NamedTuple):
    """A call of a script with one key."""

    script: Script
    key: str
    arguments: Sequence[str | int] = ()


def run_scripts(redis: Redis, calls: Sequence[Call]) -> list[Any]:
    """Run scripts in one round trip and return their replies in order; raises the first error."""
    replies = _send(redis, calls, by_source=False) if calls else []
    if any(isinstance(reply, NoScriptError) for reply in replies):  # the server was restarted, or is another one
        replies = _send(redis, calls, by_source=True)
    for reply in replies:
        raise_if_error(reply)
    return replies


def run_script(redis: Redis, script: Script, key: str, *arguments: str | int) -> Any:
    """Run one script and return its reply."""
    return run_scripts(redis, [Call(script, key, arguments)])[0]


def raise_if_error(reply: Any) -> Any:
    """Return a reply of Redis, or raise it if it is an error."""
    if isinstance(reply, ResponseError) and "unknown command" in str(reply):
        raise RedisTooOldError from reply
    if isinstance(reply, Exception):
        raise reply
    return reply


def _send(redis: Redis, calls: Sequence[Call], *, by_source: bool) -> list[Any]:
    pipe: Any = redis.pipeline(transaction=False)
    for script, key, arguments in calls:
        # The read-only variants also run while a failover pauses writes.
        if by_source:
            pipe.execute_command("EVAL_RO", script.source, 1, key, *arguments)
        else:
            pipe.execute_command("EVALSHA_RO", script.sha, 1, key, *arguments)
    replies: list[Any] = pipe.execute(raise_on_error=False)
    return replies
