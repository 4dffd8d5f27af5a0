"""Removes ids from the queue that are not the projector's, or whose jobs no longer exist.

Another program that uses the same queue, or a list restored without its jobs, would otherwise delay every drain.
"""

from typing import Any

from rq import Queue
from rq.job import Job

from workers.jobs.queue import DRAIN_ID, VERIFY_ID

_IDS_AT_ONCE = 5_000  # Lua passes at most 8,000 arguments

# Moves the jobs that stay to the back, so that one round keeps their order. They are added before anything is removed,
# because a full Redis refuses to add them.
_REMOVE = f"""
local function starts(id, prefix) return string.sub(id, 1, #prefix) == prefix end
local ids, kept = redis.call('LRANGE', KEYS[1], 0, ARGV[1] - 1), {{}}
for _, id in ipairs(ids) do
    local is_own = starts(id, '{DRAIN_ID}') or starts(id, '{VERIFY_ID}')
    if is_own and redis.call('EXISTS', ARGV[2] .. id) == 1 then kept[#kept + 1] = id end
end
if #kept > 0 then redis.call('RPUSH', KEYS[1], unpack(kept)) end
redis.call('LTRIM', KEYS[1], #ids, -1)
return #ids - #kept
"""


def remove_foreign_jobs(queue: Queue) -> int:
    """Remove foreign and missing jobs from the queue, and return how many; the jobs' own keys stay as they are."""
    redis: Any = queue.connection
    rounds = -(-queue.count // _IDS_AT_ONCE)
    return sum(redis.eval(_REMOVE, 1, queue.key, _IDS_AT_ONCE, Job.redis_job_namespace_prefix) for _ in range(rounds))
