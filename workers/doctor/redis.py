"""Checks of Redis: does it keep what it is given, and is it one that the streams can live on."""

from collections.abc import Iterator

from redis.exceptions import RedisError, ResponseError

from event_stream.errors import EventStreamError
from event_stream.stream import PARTITIONS_KEY
from projections.error_classes import describe
from workers.doctor.check import Checker, Observation, Side, refusals
from workers.doctor.context import Context, UnavailableError

redis = Checker(Side.REDIS)


@redis.danger(
    "redis-unreachable",
    "G7",
    means="Redis does not answer: nothing is appended and nothing projected.",
    remedy="start Redis, or mend REDIS_URL (host, port, password) or the network between",
    hides=(Side.REDIS, Side.WORK),
)
def unreachable(patient: Context) -> Iterator[Observation]:
    """See whether it answers this user at all."""
    try:
        patient.stream.redis.ping()
    except ResponseError:
        return  # also an answer: a PING is refused while the append-only file cannot be written
    except RedisError as error:
        yield Observation(describe(error))


@redis.danger(
    "redis-too-old",
    "G1",
    means="The server is older than Redis 7.0 or Valkey 8: it does not count the entries ever added, so a loss"
    " cannot be told, or has never been tried.",
    remedy="move to Redis 7.0, Valkey 8, or newer",
    hides=(Side.WORK,),
)
def old(patient: Context) -> Iterator[Observation]:
    """Compare versions; Valkey tells a Redis version too, always the same one."""
    is_valkey = patient.tells("valkey_version")
    name, key, oldest = ("Valkey", "valkey_version", 8) if is_valkey else ("Redis", "redis_version", 7)
    version = str(patient.info(key))
    if int(version.split(".", maxsplit=1)[0]) < oldest:
        yield Observation(f"{name} {version}")


@redis.danger(
    "redis-cluster",
    "G7",
    means="The server is in cluster mode, which the streams and RQ do not speak yet: commands over several keys fail.",
    remedy="point REDIS_URL at a server with `cluster-enabled no`",
    hides=(Side.WORK,),
)
def cluster(patient: Context) -> Iterator[Observation]:
    """See whether it is a node of a cluster."""
    if int(patient.info("cluster_enabled")):
        yield Observation("cluster_enabled is 1")


@redis.danger(
    "redis-replica",
    "G7",
    means="The server is a replica: it refuses writes, and what it holds may be behind what its master acknowledged.",
    remedy="point REDIS_URL at the master, `{master}`; or, if this one is to take over, `redis-cli REPLICAOF NO ONE`",
)
def replica(patient: Context) -> Iterator[Observation]:
    """See which role it has."""
    if patient.info("role") != "master":
        master = f"{patient.info('master_host')}:{patient.info('master_port')}"
        yield Observation(f"role is {patient.info('role')}", {"master": master})


@redis.danger(
    "redis-aof-off",
    "G1",
    means="Redis keeps no append-only file: when it ends, the events since its last snapshot are gone.",
    remedy="`redis-cli CONFIG SET appendonly yes`, and `appendonly yes` in its configuration file",
)
def append_only_file_off(patient: Context) -> Iterator[Observation]:
    """See whether there is an append-only file."""
    if not int(patient.info("aof_enabled")):
        yield Observation("aof_enabled is 0")


@redis.danger(
    "redis-aof-failing",
    "G1",
    means="Redis cannot write its append-only file: it refuses writes, and may lose what it took last.",
    remedy="make room on the disk that holds it, or mend its permissions; the server's log says which; it tries again"
    " by itself",
)
def append_only_file_failing(patient: Context) -> Iterator[Observation]:
    """See how the last write to the append-only file went."""
    if patient.info("aof_last_write_status") != "ok":
        yield Observation(f"aof_last_write_status is {patient.info('aof_last_write_status')}")


@redis.danger(
    "redis-fsync-no",
    "G1",
    means="Redis leaves it to the operating system when its append-only file reaches the disk: a crash of the machine"
    " may lose half a minute of events.",
    remedy="`redis-cli CONFIG SET appendfsync always`, and `appendfsync always` in its configuration file",
)
def no_fsync(patient: Context) -> Iterator[Observation]:
    """See when it syncs."""
    yield from _fsync_is("no", patient)


@redis.advice(
    "redis-fsync-everysec",
    "G1",
    means="Redis syncs once a second: a crash of the machine, or killing Redis during a slow sync, may lose up to two"
    " seconds of events.",
    remedy="`redis-cli CONFIG SET appendfsync always`, and `appendfsync always` in its configuration file, unless two"
    " seconds may be lost",
)
def fsync_each_second(patient: Context) -> Iterator[Observation]:
    """See when it syncs."""
    yield from _fsync_is("everysec", patient)


def _fsync_is(value: str, patient: Context) -> Iterator[Observation]:
    if int(patient.info("aof_enabled")) and patient.redis_setting("appendfsync") == value:
        yield Observation(f"appendfsync is {value}")


@redis.danger(
    "redis-may-evict",
    "G1",
    means="When its memory is full, Redis may remove keys, streams among them, that nobody has read yet.",
    remedy="`redis-cli CONFIG SET maxmemory-policy noeviction`, and `maxmemory-policy noeviction` in its configuration"
    " file; give other users of this Redis one of their own",
)
def may_evict(patient: Context) -> Iterator[Observation]:
    """See what it does when its memory is full."""
    policy = patient.info("maxmemory_policy")
    if policy != "noeviction":
        yield Observation(f"maxmemory-policy is {policy}, maxmemory {int(patient.info('maxmemory')):,} bytes")


@redis.danger(
    "redis-evicted",
    "G1",
    means="Redis has removed keys for want of memory since it was started; streams may have been among them.",
    remedy="set `maxmemory-policy noeviction`, let producers append again what they still have (repeats count once),"
    " then `redis-cli CONFIG RESETSTAT`",
)
def evicted(patient: Context) -> Iterator[Observation]:
    """See whether anything was evicted."""
    if int(patient.info("evicted_keys")):
        yield Observation(f"evicted_keys is {int(patient.info('evicted_keys')):,}")


@redis.advice(
    "redis-nearly-full",
    "G7",
    means="Redis's memory is nearly full: with `noeviction` it will refuse events, and the signs of life of workers.",
    remedy="`redis-cli CONFIG SET maxmemory <bytes>` with more; start workers if it is a backlog that fills it",
)
def nearly_full(patient: Context) -> Iterator[Observation]:
    """Compare the memory in use with what it may use."""
    used, most = int(patient.info("used_memory")), int(patient.info("maxmemory"))
    if most and used > patient.limits.memory_used_share * most:
        yield Observation(f"used_memory is {used:,} of maxmemory {most:,} bytes")


@redis.advice(
    "redis-clock-differs",
    means="Redis's clock and this host's differ by more than 5 s: positions carry Redis's time, so lags and times"
    " cannot be compared.",
    remedy="let both hosts follow the same time servers (chrony, systemd-timesyncd)",
)
def clock_off(patient: Context) -> Iterator[Observation]:
    """Compare Redis's clock with ours."""
    skew_s = _skew_s(patient)
    if abs(skew_s) > patient.limits.clock_off_s:
        yield Observation(f"Redis's clock is {skew_s:+.1f} s from this host's")


@redis.danger(
    "redis-clock-slow",
    "G7",
    means="Redis's clock is further behind this host's than PROJECTOR_MAX_CLOCK_SKEW_S: events that tell the right time"
    " become dead letters (`time_in_future`).",
    remedy="set the clock of Redis's host right, then `projector dead-letters replay --reason time_in_future`",
)
def clock_refuses_events(patient: Context) -> Iterator[Observation]:
    """Compare Redis's clock with ours, as workers compare it with what events tell."""
    allowed_s = patient.settings.max_clock_skew_s
    behind_s = -_skew_s(patient)
    if behind_s > allowed_s:
        yield Observation(f"Redis is {behind_s:.1f} s behind, PROJECTOR_MAX_CLOCK_SKEW_S is {allowed_s}")


def _skew_s(patient: Context) -> float:
    return patient.skew_s(lambda: patient.stream.now_ms() / 1000)


@redis.danger(
    "redis-partitions-differ",
    "G7",
    means="Redis tells producers another number of partitions than PROJECTOR_PARTITIONS: processes refuse to start, and"
    " producers to append.",
    remedy=f"set `PROJECTOR_PARTITIONS={{stored}}`; if the database holds another number, this Redis is another"
    f" deployment's: mend REDIS_URL, or `redis-cli DEL {PARTITIONS_KEY}` to have it told anew",
    hides=(Side.WORK,),
)
def partitions_differ(patient: Context) -> Iterator[Observation]:
    """Compare what producers are told with the setting; nothing told yet is fine."""
    stored = patient.stream.redis.get(PARTITIONS_KEY)
    told = stored.decode() if isinstance(stored, bytes) else stored
    if told is not None and told != str(patient.settings.partitions):
        text = f"key {PARTITIONS_KEY} is {told}, PROJECTOR_PARTITIONS {patient.settings.partitions}"
        yield Observation(text, {"stored": told})


@redis.advice(
    "redis-inspection-denied",
    "G1",
    means="Redis does not let us look at everything, as managed services and ACLs do: these checks were not made.",
    remedy="allow it: `redis-cli ACL SETUSER <user> +info +config|get`; where that cannot be, look the values up in"
    " your service's console: `appendonly yes`, `appendfsync always`, `maxmemory-policy noeviction`",
)
def look_refused(patient: Context) -> Iterator[Observation]:
    """Tell what the checks before could not see."""
    yield from refusals(patient, RedisError, EventStreamError, UnavailableError)
