"""The kill loop, short: everything goes wrong once on each database; `make chaos` does it hundreds of times by chance."""

from collections.abc import Iterator

import pytest

from tests.chaos.plan import every_kind, kinds_on
from tests.chaos.runs import Grounds, grounds


@pytest.fixture(scope="module")
def ground() -> Iterator[Grounds]:
    with grounds() as made:
        yield made


@pytest.mark.parametrize(
    ("database", "seed"),
    [
        ("sqlite", 1),
        pytest.param("postgresql", 2, marks=pytest.mark.fleet),
        pytest.param("sqlite", 3, marks=pytest.mark.fleet),
    ],
)
def test_every_promise_holds_whatever_is_killed_or_paused(ground: Grounds, database: str, seed: int) -> None:
    result = ground.run(every_kind(seed, database))
    assert result.broken == {}, result.log.read_text()[-5000:]
    assert [kind for kind in kinds_on(database) if not result.happened[kind]] == []
