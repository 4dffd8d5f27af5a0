"""Reads from Redis and from the database at the same time, so that two silent servers cost one time limit."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

from projections.error_classes import describe
from workers.errors import WorkersError

D = TypeVar("D")
R = TypeVar("R")


class NoServerAnswersError(WorkersError):
    """Neither Redis nor the database can be read."""

    def __init__(self, redis: RedisError, database: SQLAlchemyError) -> None:
        super().__init__(f"neither Redis ({describe(redis)}) nor the database ({describe(database)}) can be read")


def read_both(read_database: Callable[[], D], read_redis: Callable[[], R]) -> tuple[D, R]:
    """Return the results of both; raises the error of the server that fails, or NoServerAnswersError if both fail."""
    with ThreadPoolExecutor(1) as threads:
        reading = threads.submit(read_database)
        try:
            from_redis = read_redis()
        except RedisError as error:
            if isinstance(database_error := reading.exception(), SQLAlchemyError):
                raise NoServerAnswersError(error, database_error) from error
            raise
        return reading.result(), from_redis


def describe_missing(error: RedisError | SQLAlchemyError) -> str:
    """Return which server `read_both` could not read, and why."""
    missing, other = ("Redis", "the database") if isinstance(error, RedisError) else ("the database", "Redis")
    return f"{missing} cannot be read ({describe(error)}), {other} can"
