"""Which deployment a Redis belongs to (docs/decisions/0054-tie-redis-to-its-database.md)."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError

from event_stream.errors import EventStreamError
from event_stream.streams.stream_keys import DATABASE_KEY, DEPLOYMENT_KEY


class DeploymentMismatchError(EventStreamError, RedisError):
    """Redis and the database belong to different deployments, or a new connection leads to another deployment."""

    def __init__(self, first: str, first_id: str, second: str, second_id: str) -> None:
        super().__init__(
            f"{first} belongs to deployment {first_id}, but {second} to deployment {second_id}; correct REDIS_URL or"
            " DATABASE_URL, or see `projector deployment show`"
        )


class RedisDeployment(NamedTuple):
    """What Redis knows: the id of its deployment, and which database server writes for it."""

    deployment_id: str | None
    database_server: str | None


def read_deployment(redis: Redis) -> RedisDeployment:
    """Return what Redis knows about its deployment."""
    stored: Any = redis.mget(DEPLOYMENT_KEY, DATABASE_KEY)
    return RedisDeployment(*(value.decode() if value else None for value in stored))


def announce_deployment(redis: Redis, deployment_id: str, database_server: str | None) -> None:
    """Store the deployment's id and its database server where Redis knows none. A full Redis stores nothing."""
    with suppress(OutOfMemoryError):  # a full Redis must still be drained
        redis.set(DEPLOYMENT_KEY, deployment_id, nx=True)
        if database_server is not None:
            redis.set(DATABASE_KEY, database_server, nx=True)


def replace_deployment(redis: Redis, deployment_id: str, database_server: str | None) -> None:
    """Store the deployment's id and its database server, whatever Redis holds."""
    with redis.pipeline() as pipe:
        pipe.set(DEPLOYMENT_KEY, deployment_id)
        pipe.delete(DATABASE_KEY)
        if database_server is not None:
            pipe.set(DATABASE_KEY, database_server)
        pipe.execute()


@dataclass
class DeploymentPin:
    """The deployment that a process works for: the first one that it finds on a connection.

    Every new connection is compared with it, because a name in DNS may lead to another server today than yesterday.
    """

    deployment_id: str | None = None
    place: str = ""

    def check(self, deployment_id: str | None, place: str) -> None:
        """Raise DeploymentMismatchError if a server belongs to another deployment. It may not know any yet."""
        if deployment_id is None:
            return
        if self.deployment_id is None:
            self.deployment_id, self.place = deployment_id, place
        elif deployment_id != self.deployment_id:
            raise DeploymentMismatchError(place, deployment_id, self.place, self.deployment_id)

    def on_redis_connect(self, connection: Any) -> None:
        """Prepare a new connection to Redis as redis-py does, then check it; an argument for `Redis`."""
        connection.on_connect()
        connection.send_command("GET", DEPLOYMENT_KEY)
        try:
            stored = connection.read_response()
        except NoPermissionError:
            return  # a producer may not be allowed to read this key
        options = {name: getattr(connection, name, None) for name in ("path", "host", "port", "db")}
        self.check(stored.decode() if stored else None, _place(options))


def redis_place(redis: Redis) -> str:
    """Return where a Redis is, without secrets."""
    return _place(redis.connection_pool.connection_kwargs)


def _place(options: Mapping[str, Any]) -> str:
    address = options.get("path") or f"{options.get('host') or 'localhost'}:{options.get('port') or 6379}"
    return f"Redis at {address}/{options.get('db') or 0}"
