"""Checks whether the user of Redis may do what its process needs, including what RQ needs.

The commands are queued in a transaction that is then discarded. Redis checks permissions when it queues a command, so
nothing is changed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from event_stream.streams.raw_reply import connection_of
from event_stream.streams.stream_keys import PARTITIONS_KEY, projected_key, stream_key
from workers.dispatch.dispatcher import HEARTBEATS_KEY
from workers.doctor.check import Observation, Subject, error_check
from workers.doctor.context import Context
from workers.jobs.queue import QUEUE_NAME

Command = tuple[str, ...]

_QUEUE, _STREAM = f"rq:queue:{QUEUE_NAME}", stream_key(0)
_TAKES_JOBS: Command = ("BLMOVE", _QUEUE, f"{_QUEUE}:intermediate", "LEFT", "RIGHT", "1")
_TRIMS: Command = ("XTRIM", _STREAM, "MINID", "0-0")
_BOTH: tuple[Command, ...] = (
    ("GET", PARTITIONS_KEY),
    ("SET", PARTITIONS_KEY, "1"),
    ("TIME",),
    ("XINFO", "STREAM", _STREAM),
    ("XRANGE", _STREAM, "-", "+"),
    ("XLEN", _STREAM),
    ("TYPE", _STREAM),
    ("EVAL_RO", "return 1", "1", _STREAM),
    ("EVALSHA_RO", "0" * 40, "1", _STREAM),
    ("MSET", projected_key(0), "0-0"),
    ("SET", "projector:probe", "1"),
    ("EVAL", "return 1", "1", "projector:probe"),
    ("EVALSHA", "0" * 40, "1", "projector:probe"),
    ("SCRIPT", "LOAD", "return 1"),
    ("HSET", "rq:job:probe", "a", "b"),
    ("SADD", "rq:queues", _QUEUE),
)
_NEEDS: dict[str, tuple[Command, tuple[Command, ...]]] = {
    "worker": (
        _TAKES_JOBS,
        (
            *_BOTH,
            ("CLIENT", "SETNAME", "probe"),
            ("DEL", "rq:job:probe"),
            ("EXPIRE", "rq:worker:probe", "1"),
            ("HGETALL", "rq:job:probe"),
            ("HINCRBY", "projector:batch-metrics", "a", "1"),
            ("HINCRBYFLOAT", "rq:worker:probe", "a", "1"),
            ("LREM", f"{_QUEUE}:intermediate", "0", "job"),
            ("PERSIST", "rq:job:probe"),
            ("SREM", "rq:workers", "probe"),
            ("ZADD", f"rq:wip:{QUEUE_NAME}", "1", "job"),
            ("ZRANGEBYSCORE", f"rq:failed:{QUEUE_NAME}", "0", "1"),
        ),
    ),
    "dispatcher": (
        _TRIMS,
        (
            *_BOTH,
            ("LLEN", _QUEUE),
            ("PTTL", "projector:probe"),
            ("XREAD", "STREAMS", _STREAM, "0-0"),
            ("RPUSH", _QUEUE, "job"),
            ("ZADD", HEARTBEATS_KEY, "1", "probe"),
            ("ZREMRANGEBYSCORE", HEARTBEATS_KEY, "0", "0"),
        ),
    ),
}
RQ_CHANNEL = "rq:pubsub:probe"


@error_check(
    "redis-permissions-missing",
    Subject.REDIS,
    "G7",
    meaning="The user of REDIS_URL may take jobs from RQ's queue as a worker does, or trim streams as a"
    " dispatcher does, but lacks something else that this process needs. Without the channels"
    " `rq:pubsub:*`, for example, RQ's workers end when they start.",
    remedy="give the user the line of its process in docs/how-to/deploy.md#access-in-redis: `ACL SETUSER {user} …`",
)
def missing(context: Context) -> Iterator[Observation]:
    """Check the permissions of the role that the user has: a worker takes jobs, and a dispatcher trims."""
    redis = context.stream.redis
    user = str(redis.connection_pool.connection_kwargs.get("username") or "default")
    for role, (mark, commands) in _NEEDS.items():
        if _denied(redis, [mark]):
            continue
        denied = _denied(redis, commands)
        if role == "worker" and _is_channel_denied(redis):
            denied.append(f"SUBSCRIBE {RQ_CHANNEL}")
        if denied:
            yield Observation(f"user {user} may not do what a {role} needs: {', '.join(denied)}", {"user": user})


def _denied(redis: Redis, commands: Sequence[Command]) -> list[str]:
    """Return the commands, with their first key, that the user may not run."""
    with connection_of(redis) as connection:
        connection.send_packed_command(connection.pack_commands([("MULTI",), *commands, ("DISCARD",)]))
        replies = [_reply(connection) for _ in range(len(commands) + 2)]
    for reply in (replies[0], replies[-1]):
        if isinstance(reply, Exception):
            raise reply
    return [
        " ".join(command[:2])
        for command, reply in zip(commands, replies[1:-1], strict=True)
        if isinstance(reply, NoPermissionError)
    ]


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _is_channel_denied(redis: Redis) -> bool:
    pubsub: Any = redis.pubsub()  # type: ignore[no-untyped-call]
    try:
        with pubsub:
            pubsub.subscribe(RQ_CHANNEL)
            pubsub.parse_response()
    except NoPermissionError:
        return True
    return False
