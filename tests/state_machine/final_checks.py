"""Checks at the end of an example."""

import json
from typing import Any

from projections.transaction import event_log
from tests.state_machine.actors import PARTITIONS, TENANTS
from tests.state_machine.system import System
from tests.support.api_client import Api, assert_answers_equal
from tests.support.events import NOW_US
from tests.support.harness import assert_dead_letters_are_counted, dump, stored_dead_letters


def nothing_is_in_flight(system: System) -> None:
    """Nothing is in flight, and all lost entries are counted."""
    system.counters_match()
    assert [len(pending) for pending in system.model.pending] == [0] * PARTITIONS
    assert [at.lost for at in system.seen] == system.model.lost


def drains_completely(system: System) -> None:
    for _ in range(50):
        if not system.sweep_and_drain():
            return
    raise AssertionError("a partition is never fully drained")


def log_equals_accepted_events(system: System) -> None:
    rows = dump(system.runtime.reader, [event_log.table])["event_log"]
    assert {(row[0], row[1]): json.loads(row[-1]) for row in rows} == system.model.accepted
    for at in system.seen:
        assert sorted(row[3] for row in rows if row[2] == at.partition) == list(range(1, at.applied + 1))
    named = {tenant for tenant, _ in system.model.accepted}
    for table, its_rows in dump(system.runtime.reader).items():
        assert {row[0] for row in its_rows} <= named, table


def dead_letters_equal_refused_entries(system: System) -> None:
    found = {
        (each.reason, each.body_sha256): (each.times_seen, each.state) for each in stored_dead_letters(system.runtime)
    }
    assert found == {key: (each.times_seen, each.state) for key, each in system.model.dead_letters.items()}
    assert_dead_letters_are_counted(system.runtime)


def hints_are_correct(system: System) -> None:
    hints = system.runtime.stream.projected(range(PARTITIONS))
    for at, end in zip(system.seen, system.runtime.stream.ends(), strict=True):
        if end.position is not None:
            assert hints[at.partition].position == at.position


async def answers_equal_the_oracle(system: System) -> None:
    api = Api(system.runtime.writer, system.runtime.reader)
    api.now_us = NOW_US
    keys = {tenant: api.key(tenant) for tenant in TENANTS}

    async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
        response = await api.ask(path, keys[tenant], **headers)
        return None if response.status_code == 404 else response.json()["data"]

    system.happened["answers"] += await assert_answers_equal(system.model.oracle(), ask, lambda: NOW_US)
    api.close()
