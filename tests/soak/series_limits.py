"""The limit of each series, with its reason."""

from api_stub.routes.registry import READS
from tests.soak.limits import AtMost, Constant, Flat, Limit
from tests.soak.plan import PARTITIONS, WORKERS, Plan
from tests.soak.redis_keys import RQ_KEYS, documented
from tests.soak.sampling import REGISTRIES, TABLES

ROLES = [*(f"worker {number + 1}" for number in range(WORKERS)), "dispatcher", "API"]
JOBS_MAX = 2 * PARTITIONS + 1  # as documented: two drains for each partition, and one verification
LATE_S = 10.0  # how long a busy machine may delay trimming or draining
NODE = 100  # Redis trims whole nodes of a stream
PROJECT_ENTRIES = 100
PER_PARTITION = "one for each partition"

# The pool sizes of each process, as in the table of docs/how-to/run-book.md.
CONNECTIONS = {"worker": 5 * WORKERS, "dispatcher": 4, "api": 7 + len(READS)}
RQ_MOST = {
    "rq:worker:{worker}": (WORKERS, "one for each worker"),
    "rq:worker:{worker}:executions": (WORKERS, "one for each worker"),
    "rq:job:{job}": (JOBS_MAX + WORKERS, "those of the queue, and one for each worker"),
    "rq:executions:{job}": (WORKERS, "one for each worker"),
    "rq:execution:{job}:{execution}": (WORKERS, "one for each worker"),
    "rq:results:{job}": (0, "results are not kept"),
}


def limits_of(plan: Plan) -> dict[str, Limit]:
    """Return the limit of each series that has one."""
    return {
        **_of_processes(plan),
        **_of_redis(plan),
        **{f"keys of {name}": AtMost(*_most_keys(name)) for name in [*documented(), *RQ_KEYS]},
        "undocumented keys": AtMost(0, "every key is documented by a module"),
        **_of_rq(),
        **_of_tables(plan),
    }


def _of_processes(plan: Plan) -> dict[str, Limit]:
    memory = Flat(plan.memory_mib, "the allocator's reserve; a leak of half a minute's entries would be more")
    threads = Flat(0, "as many as at the start")
    files = Flat(2, "a connection of a verification may be open or not")
    kinds = {"memory": memory, "threads": threads, "open files": files}
    pooled = "its pools of connections and threads may fill later"
    return {
        **{f"{kind} of {role}": rule for kind, rule in kinds.items() for role in ROLES},
        "threads of API": Flat(3, pooled),
        "open files of API": Flat(6, pooled),
    }


def _of_redis(plan: Plan) -> dict[str, Limit]:
    rate = plan.events_per_s * plan.speed
    kept_s = plan.trim_behind_s + plan.trim_every_s
    window = rate * (kept_s + LATE_S) + PARTITIONS * NODE
    lasting = Flat(2 * NODE, "one stream node more or less", share=0.25)
    return {
        "clients of Redis": Flat(4, "one more pooled connection for concurrent checks"),
        "data of Redis": Flat(1, "proportional to the streams", share=0.25),
        "entries of all streams": AtMost(window, f"{rate:g}/s for {kept_s:g} s, {LATE_S:g} s delay, and one node each"),
        **{f"entries of stream {partition}": lasting for partition in range(PARTITIONS)},
        "entries of the backlog": AtMost(rate * LATE_S, f"{LATE_S:g} s of traffic: workers keep up"),
    }


def _most_keys(name: str) -> tuple[float, str]:
    if name in RQ_MOST:
        return RQ_MOST[name]
    return (PARTITIONS, PER_PARTITION) if "{p}" in name else (1, "one in total")


def _of_rq() -> dict[str, Limit]:
    kept = {"started": AtMost(WORKERS, "one for each worker")}
    none = AtMost(0, "no job fails, and finished ones are not kept")
    return {
        "jobs of the queue": AtMost(JOBS_MAX, "two drains for each partition, and one verification"),
        **{f"jobs of {name}": kept.get(name, none) for name in REGISTRIES},
    }


def _of_tables(plan: Plan) -> dict[str, Limit]:
    same = Constant("all tenants, projects, dead letters and keys exist from the start")
    grows = {"event_log", "activity"}
    entries = plan.tenants * plan.projects * PROJECT_ENTRIES
    return {
        **{f"rows of {table}": same for table in TABLES if table not in grows},
        "rows of activity": AtMost(entries, f"{PROJECT_ENTRIES} for each project"),
        "rows of event_log beyond what was applied": Constant("exactly one row for each applied event"),
        **{f"connections of {role}": AtMost(most, "the size of its pools") for role, most in CONNECTIONS.items()},
        "connections of other clients": AtMost(0, "no other process connects"),
    }
