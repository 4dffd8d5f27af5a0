"""Checks whether Redis can be used: it is reachable, supported, a primary, and belongs to this deployment."""

from collections.abc import Iterator

from redis.exceptions import RedisError, ResponseError

from event_stream.errors import EventStreamError
from event_stream.streams.stream_keys import PARTITIONS_KEY
from projections.error_classes import describe
from workers.doctor.check import Observation, Subject, denied_inspections, error_check, warning_check
from workers.doctor.context import Context, UnavailableError
from workers.telemetry.write_probe import read_write_refusal


@error_check(
    "redis-unreachable",
    Subject.REDIS,
    "G7",
    meaning="Redis does not answer, so no event is appended or projected.",
    remedy="start Redis, or correct REDIS_URL (host, port, password) or the network between",
    blocks=(Subject.REDIS, Subject.STATUS),
)
def unreachable(context: Context) -> Iterator[Observation]:
    """Send a PING."""
    try:
        context.stream.redis.ping()
    except ResponseError:
        return  # it answers: Redis refuses PING while it cannot write the append-only file
    except RedisError as error:
        yield Observation(describe(error))


@error_check(
    "redis-too-old",
    Subject.REDIS,
    "G1",
    meaning="The server is older than Redis 7.0 or Valkey 8. Redis before 7.0 does not count the entries ever added, so"
    " losses cannot be detected. Valkey before 8 is not tested.",
    remedy="upgrade to Redis 7.0, Valkey 8, or newer",
    blocks=(Subject.STATUS,),
)
def too_old(context: Context) -> Iterator[Observation]:
    """Compare the version with the oldest supported one. Valkey also reports a Redis version, which never changes."""
    is_valkey = context.has_info("valkey_version")
    name, key, oldest = ("Valkey", "valkey_version", 8) if is_valkey else ("Redis", "redis_version", 7)
    version = str(context.info(key))
    if int(version.split(".", maxsplit=1)[0]) < oldest:
        yield Observation(f"{name} {version}")


@error_check(
    "redis-cluster",
    Subject.REDIS,
    "G7",
    meaning="The server runs in cluster mode, which is not supported: commands on several keys fail.",
    remedy="point REDIS_URL at a server with `cluster-enabled no`",
    blocks=(Subject.STATUS,),
)
def cluster(context: Context) -> Iterator[Observation]:
    """Check whether the server is a node of a cluster."""
    if int(context.info("cluster_enabled")):
        yield Observation("cluster_enabled is 1")


@error_check(
    "redis-replica",
    Subject.REDIS,
    "G7",
    meaning="The server is a replica. It refuses writes, and its data may be older than what its primary has"
    " acknowledged.",
    remedy="point REDIS_URL at the primary, `{primary}`; or, if this server is to take over,"
    " `redis-cli REPLICAOF NO ONE`",
)
def replica(context: Context) -> Iterator[Observation]:
    """Report which role the server has in replication."""
    if context.info("role") != "master":
        primary = f"{context.info('master_host')}:{context.info('master_port')}"
        yield Observation(f"role is {context.info('role')}", {"primary": primary})


@error_check(
    "redis-refuses-writes",
    Subject.REDIS,
    "G7",
    meaning="Redis answers a write with an error. Producers cannot append, no drain is enqueued, and heartbeats are"
    " missing although the processes run.",
    remedy="`OOM`: raise `maxmemory`. `READONLY`: point REDIS_URL at the primary. `NOREPLICAS`: bring the replicas"
    " back, or lower `min-replicas-to-write`. `MISCONF`: free space on Redis's disk, or correct its folder and"
    " permissions; Redis's log names the cause. Everything continues by itself",
)
def refuses_writes(context: Context) -> Iterator[Observation]:
    """Write a key that expires."""
    refusal = read_write_refusal(context.stream.redis)
    if refusal is not None:
        yield Observation(refusal)


@error_check(
    "redis-partitions-differ",
    Subject.REDIS,
    "G7",
    meaning="Redis announces another number of partitions to producers than PROJECTOR_PARTITIONS. Processes refuse to"
    " start, and producers refuse to append.",
    remedy="set `PROJECTOR_PARTITIONS={stored}`; if the database has another number, this Redis belongs to another"
    f" deployment: correct REDIS_URL, or run `redis-cli DEL {PARTITIONS_KEY}`, and the number is announced anew",
    blocks=(Subject.STATUS,),
)
def partitions_differ(context: Context) -> Iterator[Observation]:
    """Compare the announced number of partitions with the setting; it may be missing before the first start."""
    stored = context.stream.redis.get(PARTITIONS_KEY)
    announced = stored.decode() if isinstance(stored, bytes) else stored
    if announced is not None and announced != str(context.settings.partitions):
        message = f"key {PARTITIONS_KEY} is {announced}, PROJECTOR_PARTITIONS is {context.settings.partitions}"
        yield Observation(message, {"stored": announced})


@warning_check(
    "redis-inspection-denied",
    Subject.REDIS,
    "G1",
    meaning="Redis does not allow some inspections, as is usual for managed services and ACLs. The checks that need"
    " them were skipped.",
    remedy="allow them: `redis-cli ACL SETUSER <user> +info +config|get`; where that is impossible, look these values"
    " up in the console of your service: `appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction`",
)
def inspection_denied(context: Context) -> Iterator[Observation]:
    """Report the checks that Redis has prevented."""
    yield from denied_inspections(context, RedisError, EventStreamError, UnavailableError)
