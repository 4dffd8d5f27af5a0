"""Whether Redis accepts writes: an idle deployment would notice a refusal only with the next event.

Keys:

    projector:write-probe  string  written to see whether Redis accepts writes; expires
"""

from redis import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, ReadOnlyError, ResponseError

PROBE_KEY = "projector:write-probe"
PROBE_TTL_S = 60
_CODES: dict[type[ResponseError], str] = {OutOfMemoryError: "OOM ", ReadOnlyError: "READONLY "}  # redis-py omits them


def write_probe(redis: Redis) -> None:
    """Write the probe key; raises RedisError."""
    redis.set(PROBE_KEY, 1, ex=PROBE_TTL_S)


def read_write_refusal(redis: Redis) -> str | None:
    """Return what Redis answers to a write, or None if it accepts it or allows this user no writes.

    Raises RedisError if Redis does not answer.
    """
    try:
        write_probe(redis)
    except NoPermissionError:
        return None  # a user that only reads, such as the API's
    except ResponseError as error:
        return f"{_CODES.get(type(error), '')}{error}".rstrip(".")
    return None
