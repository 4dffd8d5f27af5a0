"""Which rule each series is held to, and why."""

from api_stub.routes.registry import READS
from tests.soak.judge import AtMost, Constant, Flat, Rule
from tests.soak.keys import RQ_KEYS, documented
from tests.soak.plan import PARTITIONS, WORKERS, Plan
from tests.soak.sampling import REGISTRIES, TABLES

ROLES = [*(f"worker {number + 1}" for number in range(WORKERS)), "dispatcher", "API"]
JOBS_MAX = 2 * PARTITIONS + 1  # as documented: two drains a partition, and one that verifies
LATE_S = 10.0  # for how long a busy machine may keep a dispatcher from trimming, or workers from draining
NODE = 100  # Redis trims whole nodes of a stream
PROJECT_ENTRIES = 100
PER_PARTITION = "one a partition"

# As the run book's table of sizes says: what the pools of a process allow.
CONNECTIONS = {"worker": 5 * WORKERS, "dispatcher": 4, "api": 7 + len(READS)}
RQ_MOST = {
    "rq:worker:{worker}": (WORKERS, "one a worker"),
    "rq:worker:{worker}:executions": (WORKERS, "one a worker"),
    "rq:job:{job}": (JOBS_MAX + WORKERS, "those of the queue, and one a worker"),
    "rq:executions:{job}": (WORKERS, "one a worker"),
    "rq:execution:{job}:{execution}": (WORKERS, "one a worker"),
    "rq:results:{job}": (0, "results are not kept"),
}


def rules(plan: Plan) -> dict[str, Rule]:
    """Return the rule of each series that is judged."""
    return {
        **_of_processes(plan),
        **_of_redis(plan),
        **{f"keys of {name}": AtMost(*_most_keys(name)) for name in [*documented(), *RQ_KEYS]},
        "keys of nobody": AtMost(0, "each key is one that a module documents"),
        **_of_rq(),
        **_of_tables(plan),
    }


def _of_processes(plan: Plan) -> dict[str, Rule]:
    memory = Flat(plan.memory_mib, "the allocator's reserve; half a minute's entries kept for good would be more")
    threads = Flat(0, "those that it began with")
    files = Flat(2, "a connection to verify may be seen or not")
    kinds = {"memory": memory, "threads": threads, "open files": files}
    pooled = "its pools may fill later: of connections, and of threads for checks that meet"
    return {
        **{f"{kind} of {role}": rule for kind, rule in kinds.items() for role in ROLES},
        "threads of API": Flat(3, pooled),
        "open files of API": Flat(6, pooled),
    }


def _of_redis(plan: Plan) -> dict[str, Rule]:
    rate = plan.events_per_s * plan.speed
    kept_s = plan.trim_behind_s + plan.trim_every_s
    window = rate * (kept_s + LATE_S) + PARTITIONS * NODE
    lasting = Flat(2 * NODE, "a node of a stream more or less", share=0.25)
    return {
        "clients of Redis": Flat(4, "a pool's connection more, as two checks meet"),
        "data of Redis": Flat(1, "as large as the streams are", share=0.25),
        "entries of all streams": AtMost(window, f"{rate:g}/s for {kept_s:g} s, {LATE_S:g} s late, and a node each"),
        **{f"entries of stream {partition}": lasting for partition in range(PARTITIONS)},
        "entries of the backlog": AtMost(rate * LATE_S, f"{LATE_S:g} s of traffic: workers keep up"),
    }


def _most_keys(name: str) -> tuple[float, str]:
    if name in RQ_MOST:
        return RQ_MOST[name]
    return (PARTITIONS, PER_PARTITION) if "{p}" in name else (1, "one of all")


def _of_rq() -> dict[str, Rule]:
    kept = {"started": AtMost(WORKERS, "one a worker")}
    none = AtMost(0, "no job fails, and finished ones are not kept")
    return {
        "jobs of the queue": AtMost(JOBS_MAX, "two drains a partition, and one that verifies"),
        **{f"jobs of {name}": kept.get(name, none) for name in REGISTRIES},
    }


def _of_tables(plan: Plan) -> dict[str, Rule]:
    same = Constant("tenants, projects, letters and keys are all known from the beginning")
    grows = {"event_log", "activity"}
    entries = plan.tenants * plan.projects * PROJECT_ENTRIES
    return {
        **{f"rows of {table}": same for table in TABLES if table not in grows},
        "rows of activity": AtMost(entries, f"{PROJECT_ENTRIES} a project"),
        "rows of event_log beyond what was applied": Constant("a row an event that was applied, and no other"),
        **{f"connections of {role}": AtMost(most, "what its pools allow") for role, most in CONNECTIONS.items()},
        "connections of others": AtMost(0, "nobody else connects"),
    }
