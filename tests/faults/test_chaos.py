"""A short chaos run: every fault, also a huge entry, happens once on each database. `make chaos` runs hundreds of random plans."""

from collections.abc import Iterator

import pytest

from tests.chaos.plan import every_kind, kinds_on
from tests.chaos.runs import Environments, environments


@pytest.fixture(scope="module")
def environment() -> Iterator[Environments]:
    with environments() as made:
        yield made


@pytest.mark.parametrize(
    ("database", "seed"),
    [
        ("sqlite", 1),
        pytest.param("postgresql", 2, marks=pytest.mark.fleet),
        pytest.param("sqlite", 3, marks=pytest.mark.fleet),
    ],
)
def test_every_guarantee_holds_while_processes_and_servers_are_killed_and_paused(
    environment: Environments, database: str, seed: int
) -> None:
    result = environment.run(every_kind(seed, database))
    assert result.broken == {}, result.log.read_text()[-5000:]
    assert [kind for kind in kinds_on(database) if not result.happened[kind]] == []
