"""Concurrent lookups share one query, and never join a query that was already sent."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest

from api_stub.lookups import coalesce
from api_stub.lookups.coalesce import Coalescer
from api_stub.lookups.threads import run_in_thread

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Store:
    """Returns the square of every even number, one query at a time, when the test releases it."""

    def __init__(self) -> None:
        self.queries: list[list[int]] = []
        self.go = threading.Semaphore(0)
        self.executor = ThreadPoolExecutor(4)

    async def query(self, keys: Sequence[int]) -> Mapping[int, int]:
        return await run_in_thread(self.executor, self._query, keys)

    def _query(self, keys: Sequence[int]) -> Mapping[int, int]:
        self.queries.append(list(keys))
        self.go.acquire()
        if 13 in keys:
            raise ValueError("thirteen")
        return {key: key * key for key in keys if key % 2 == 0}


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.go.release(100)
    made.executor.shutdown()


async def test_lookups_made_while_a_query_runs_share_the_next_query(store: Store) -> None:
    coalescer = Coalescer(store.query)
    answers: dict[int, list[int | None]] = {}

    async def ask(key: int) -> None:
        answers.setdefault(key, []).append(await coalescer.get(key))

    async with anyio.create_task_group() as group:
        group.start_soon(ask, 2)
        await anyio.sleep(0.05)
        for key in (2, 3, 4, 4, 4):
            group.start_soon(ask, key)
        await anyio.sleep(0.05)
        assert store.queries == [[2]]  # the second lookup of 2 must not join the running query
        store.go.release(2)
    assert store.queries == [[2], [2, 3, 4]]
    assert answers == {2: [4, 4], 3: [None], 4: [16, 16, 16]}


async def test_a_failure_reaches_only_the_callers_of_that_query(store: Store) -> None:
    coalescer = Coalescer(store.query)
    store.go.release(100)
    with pytest.raises(ValueError, match="thirteen"):
        await coalescer.get(13)
    assert await coalescer.get(2) == 4


async def test_a_cancelled_caller_does_not_take_the_result_from_the_others(store: Store) -> None:
    coalescer = Coalescer(store.query)
    answers: list[int | None] = []

    async def stay() -> None:
        answers.append(await coalescer.get(2))

    async with anyio.create_task_group() as group:
        with anyio.move_on_after(0.05):
            await coalescer.get(2)
        group.start_soon(coalescer.get, 6)
        with anyio.move_on_after(0.05):
            group.start_soon(stay)
            await coalescer.get(2)
        store.go.release(100)
    assert answers == [4]


async def test_a_query_that_never_ends_times_out(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coalesce, "QUERY_TIMEOUT_S", 0.05)
    coalescer = Coalescer(store.query)
    with pytest.raises(TimeoutError):
        await coalescer.get(2)


async def test_a_lookup_whose_callers_are_all_cancelled_is_not_queried(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coalesce, "QUERY_TIMEOUT_S", 0.05)
    coalescer = Coalescer(store.query)

    async def give_up(key: int) -> None:
        with pytest.raises(TimeoutError):
            await coalescer.get(key)

    async with anyio.create_task_group() as group:
        group.start_soon(give_up, 2)
        await anyio.sleep(0.01)
        for key in range(100, 200):
            group.start_soon(give_up, key)
    monkeypatch.setattr(coalesce, "QUERY_TIMEOUT_S", 5.0)
    store.go.release(100)
    assert await coalescer.get(4) == 16
    assert store.queries == [[2], [4]]


async def test_a_query_serves_at_most_the_maximum_number_of_lookups(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    coalescer = Coalescer(store.query, keys_per_query=10)
    store.go.release(100)
    async with anyio.create_task_group() as group:
        for key in range(20, 70):
            group.start_soon(coalescer.get, key)
    assert max(map(len, store.queries)) <= 10
    assert sorted(key for query in store.queries for key in query) == list(range(20, 70))
