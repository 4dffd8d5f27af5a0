"""The tiers of tests: `first` (`make test`), `full` (`make test-all`: all other tests) and `fleet` (nightly).

Tests in `tests/unit` and `tests/integration` are `first`, all others are `full`. A mark of that name on a test, a
parameter or a module overrides this. The first tier runs a test on PostgreSQL too only if it is marked `both_databases`.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

TIERS = ("first", "full", "fleet")
# Only the tests of these modules are repeated on PostgreSQL in another schema than public, in the full tier.
IN_ANOTHER_SCHEMA = ("test_drain", "test_projections_contract", "test_reads", "test_verify")
_FIRST = [Path(__file__).parents[1] / folder for folder in ("unit", "integration")]


def tier_of(item: pytest.Item) -> str:
    """Return the tier of a test."""
    if item.get_closest_marker("fleet"):
        return "fleet"
    if item.get_closest_marker("full") or _is_a_repetition(item):
        return "full"
    is_first = item.get_closest_marker("first") or any(folder in item.path.parents for folder in _FIRST)
    return "first" if is_first else "full"


def is_in(item: pytest.Item, tier: str) -> bool:
    """Whether a tier runs a test; the full tier repeats the first tier's Hypothesis tests with all examples."""
    own = tier_of(item)
    return own == tier or (tier == "full" and own == "first" and item.get_closest_marker("hypothesis") is not None)


def is_left_out(item: pytest.Item) -> bool:
    """Whether a test would be repeated in another schema, and need not be."""
    return _database_of(item) == "schema" and item.path.stem not in IN_ANOTHER_SCHEMA


def first_for(chosen: Iterable[Any], values: Iterable[Any]) -> list[Any]:
    """Return parameters for parametrize; the chosen ones are in the first tier."""
    chosen = list(chosen)
    return [pytest.param(value, marks=pytest.mark.first) if value in chosen else value for value in values]


def _is_a_repetition(item: pytest.Item) -> bool:
    """Whether the first tier runs this test on SQLite only, and this is its PostgreSQL variant."""
    if _database_of(item) == "schema":
        return True
    if item.get_closest_marker("both_databases") or not isinstance(item, pytest.Function):
        return False
    runs_on_one = any("database_url" in mark.args[0] for mark in item.iter_markers("parametrize"))
    return _database_of(item) == "postgresql" and not runs_on_one


def _database_of(item: pytest.Item) -> object:
    return item.callspec.params.get("database_url") if hasattr(item, "callspec") else None
