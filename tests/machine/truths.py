"""What has to be true at the end of an example."""

import json
from typing import Any

from projections.transaction import event_log
from tests.machine.parts import PARTITIONS, TENANTS
from tests.machine.world import World
from tests.support.driving import Api, assert_answers_equal, dump, letters
from tests.support.events import NOW_US


def the_books_are_closed(world: World) -> None:
    """Nothing is in flight, and what was lost is known to be."""
    world.the_books_balance()
    assert [len(pending) for pending in world.ledger.pending] == [0] * PARTITIONS
    assert [at.lost for at in world.seen] == world.ledger.lost


def drains_without_a_hand(world: World) -> None:
    for _ in range(50):
        if not world.ring_and_answer():
            return
    raise AssertionError("something is behind for ever")


def log_is_what_was_accepted(world: World) -> None:
    rows = dump(world.runtime.reader, [event_log.table])["event_log"]
    assert {(row[0], row[1]): json.loads(row[-1]) for row in rows} == world.ledger.accepted
    for at in world.seen:
        assert sorted(row[3] for row in rows if row[2] == at.partition) == list(range(1, at.applied + 1))
    named = {tenant for tenant, _ in world.ledger.accepted}
    for table, its_rows in dump(world.runtime.reader).items():
        assert {row[0] for row in its_rows} <= named, table


def letters_are_what_was_refused(world: World) -> None:
    found = {(each.reason, each.body_sha256): (each.times_seen, each.state) for each in letters(world.runtime)}
    assert found == {key: (each.times_seen, each.state) for key, each in world.ledger.letters.items()}


def hints_are_right(world: World) -> None:
    hints = world.runtime.stream.projected(range(PARTITIONS))
    for at, end in zip(world.seen, world.runtime.stream.ends(), strict=True):
        if end.position is not None:
            assert hints[at.partition].position == at.position


async def answers_are_the_oracles(world: World) -> None:
    api = Api(world.runtime.writer, world.runtime.reader)
    api.now_us = NOW_US
    keys = {tenant: api.key(tenant) for tenant in TENANTS}

    async def ask(tenant: str, path: str, headers: dict[str, str]) -> Any:
        response = await api.ask(path, keys[tenant], **headers)
        return None if response.status_code == 404 else response.json()["data"]

    world.happened["answers"] += await assert_answers_equal(world.ledger.oracle(), ask, lambda: NOW_US)
    api.close()
