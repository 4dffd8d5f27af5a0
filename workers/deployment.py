"""Deployment: whether Redis and the database belong together, and the ways to change that.

docs/decisions/0054-tie-redis-to-its-database.md
"""

import structlog
from pydantic import BaseModel, Field
from redis import Redis
from sqlalchemy import Engine

from event_stream.streams import deployment
from event_stream.streams.deployment import DeploymentMismatchError, RedisDeployment, redis_place
from projections.transaction import deployment_table
from projections.transaction.deployment_table import DatabaseDeployment

log = structlog.get_logger()


class Deployment(BaseModel):
    """What the database and Redis know about their deployment."""

    database: str = Field(description="Where the database is.")
    database_id: str | None = Field(description="Deployment id in the database; null before the first start.")
    database_server: str | None = Field(
        description="What tells the database from a copy of it: PostgreSQL's system identifier and the name of the"
        " database, or the inode of SQLite's file; null if it cannot be read."
    )
    redis: str = Field(description="Where Redis is.")
    redis_id: str | None = Field(description="Deployment id in Redis; null while Redis is empty.")
    redis_database_server: str | None = Field(
        description="The `database_server` that writes for this deployment, as Redis knows it."
    )

    @property
    def differs(self) -> bool:
        """Whether the database and Redis belong to different deployments."""
        return None not in (self.database_id, self.redis_id) and self.database_id != self.redis_id

    @property
    def is_copy(self) -> bool:
        """Whether another database writes for this deployment."""
        servers = (self.database_server, self.redis_database_server)
        return not self.differs and None not in servers and servers[0] != servers[1]

    def check(self) -> None:
        """Raise DeploymentMismatchError if the two belong to different deployments."""
        if self.differs:
            assert self.redis_id is not None
            assert self.database_id is not None
            raise DeploymentMismatchError(self.redis, self.redis_id, self.database, self.database_id)


def combine(database: DatabaseDeployment, redis: RedisDeployment, place: str) -> Deployment:
    """Return what both know."""
    return Deployment(
        database=database.place,
        database_id=database.deployment_id,
        database_server=database.server,
        redis=place,
        redis_id=redis.deployment_id,
        redis_database_server=redis.database_server,
    )


def read(reader: Engine, redis: Redis) -> Deployment:
    """Return what both know; raises errors of Redis and of the database."""
    with reader.connect() as connection:
        database = deployment_table.read_deployment(connection)
    return combine(database, deployment.read_deployment(redis), redis_place(redis))


def link(writer: Engine, reader: Engine, redis: Redis) -> Deployment:
    """Return what both know, after either has taken over from the other what it did not know.

    Raises DeploymentMismatchError, and errors of Redis and of the database. Of several processes that start at once,
    all take over the id that the first one stores.
    """
    found = read(reader, redis)
    found.check()
    if found.database_id is None:
        with writer.begin() as connection:
            deployment_id = deployment_table.create(connection, found.redis_id)
        log.info("deployment.id_stored", place=found.database, deployment_id=deployment_id)
        found = read(reader, redis)
        found.check()
    if found.redis_id is None or (found.redis_database_server is None and found.database_server is not None):
        assert found.database_id is not None
        deployment.announce_deployment(redis, found.database_id, found.database_server)
        found = read(reader, redis)
        found.check()
        if found.redis_id is not None:  # else Redis is full
            log.info("deployment.id_stored", place=found.redis, deployment_id=found.redis_id)
    return found


def adopt(writer: Engine, reader: Engine, redis: Redis) -> Deployment:
    """Make Redis belong to this database, whatever Redis knows; returns what both know then."""
    with writer.begin() as connection:
        deployment_table.create(connection)
    return _announce(reader, redis)


def fork(writer: Engine, reader: Engine, redis: Redis) -> Deployment:
    """Give the database and Redis a new id, so that they are a deployment of their own; returns what both know then."""
    with writer.begin() as connection:
        deployment_table.replace(connection)
    return _announce(reader, redis)


def _announce(reader: Engine, redis: Redis) -> Deployment:
    found = read(reader, redis)
    assert found.database_id is not None
    deployment.replace_deployment(redis, found.database_id, found.database_server)
    return read(reader, redis)
