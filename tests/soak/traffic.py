"""The entries of a soak: a first part that creates every key and row, then a steady mix."""

import random
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from itertools import islice
from typing import Any

from event_stream.events.event import partition_of
from event_stream.events.rfc3339 import format_time
from tests.chaos.plan import bad
from tests.soak.plan import PARTITIONS, Plan
from tests.support.events import body, mixed

Entry = tuple[int, bytes]

# Enough events for each project that (except in one run of thousands) every log source, repo and channel appears, each
# of the 32 days has analyses, and there are more than 100 evaluations.
BEGINNING_EACH = 1_200
REPEATED, BAD, LATE = 0.06, 0.005, 0.05
RECENT = 500
LATE_US = 5_000_000


class Traffic:
    """Entries of a fixed set of tenants, projects and members; `events`, `repeats` and `bad` count them."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.chance = random.Random(plan.seed)
        self.events = self.repeats = self.bad = 0
        self._source = mixed(10**9, plan.tenants, plan.projects, plan.seed)
        self._recent: deque[Entry] = deque(maxlen=RECENT)
        first = next(mixed(1, plan.tenants, plan.projects, plan.seed))
        # Always the same bytes: each is one dead letter that is seen more and more often.
        self._bad = [(entry.partition, entry.body) for entry in bad(first, self._owner(first), 1)]
        self.project_ids: defaultdict[str, list[str]] = defaultdict(list)

    def beginning(self) -> Iterator[Entry]:
        """Yield the entries that create every key and row, with times of the last 40 days."""
        for made in islice(self._source, BEGINNING_EACH * self.plan.tenants * self.plan.projects):
            yield from self._with_recreation(made)
        self.bad += len(self._bad)
        yield from self._bad

    def now(self, count: int) -> list[Entry]:
        """Return at least `count` entries with current times: events, some of them late, duplicates and bad entries."""
        entries: list[Entry] = []
        while len(entries) < count:
            made = next(self._source)
            if self.chance.random() > LATE:
                made["time"] = format_time(time.time_ns() // 1000 - self.chance.randrange(LATE_US))
            entries.extend(self._with_recreation(made))
            if self.chance.random() < REPEATED:
                self.repeats += 1
                entries.append(self.chance.choice(self._recent))
            if self.chance.random() < BAD:
                self.bad += 1
                entries.append(self.chance.choice(self._bad))
        return entries

    def _with_recreation(self, made: dict[str, Any]) -> Iterator[Entry]:
        yield self._event(made)
        if made["type"] == "project.deleted.v1":
            # Create it again, because reads need projects that exist.
            number = self.chance.getrandbits(48)
            again = {"slug": f"project-{number % 9}", "name": "Again", "isDefault": False}
            fresh = f"{number:012x}"
            made_again = {"id": f"ffffffff-0000-4000-9000-{fresh}", "type": "project.created.v1", "data": again}
            yield self._event(made | made_again)

    def _event(self, made: dict[str, Any]) -> Entry:
        self.events += 1
        if made["projectid"] not in (known := self.project_ids[made["tenantid"]]):
            known.append(made["projectid"])
        entry = (self._owner(made), body(made))
        self._recent.append(entry)
        return entry

    def _owner(self, made: dict[str, Any]) -> int:
        return partition_of(made["tenantid"], PARTITIONS)
