"""The first tier has a fault test for every guarantee, and names tests for nine of ten planted bugs."""

import subprocess
import sys

import pytest

from tests.mutants.mutants import GUARANTEES, MUTANTS
from tests.mutants.plant import FIRST_TIER_SHARE, ROOT

pytestmark = [pytest.mark.full, pytest.mark.xdist_group("tiers")]  # one collection for all

# For each guarantee a test that injects a fault.
FAULTS = {
    "G1": "tests/faults/test_redis.py::test_entries_trimmed_unread_under_a_drain_are_counted_as_lost",
    "G2": "tests/faults/test_postgresql_wire.py::test_a_commit_whose_outcome_is_unknown",
    "G3": "tests/faults/test_redis.py::test_a_redis_restored_from_an_older_copy_is_read_again_and_each_event_counts_once",
    "G4": "tests/faults/test_killed_api_and_append.py"
    "::test_an_api_killed_during_reads_sends_complete_responses_or_none_and_the_next_process_serves",
    "G5": "tests/integration/test_drain.py::test_one_tenants_poison_cannot_open_the_breaker",
    "G6": "tests/integration/test_reads.py::test_query_plans_use_keys_only",
    "G7": "tests/faults/test_redis.py::test_redis_killed_in_the_middle_of_a_drain_comes_back_with_every_entry",
    "G8": "tests/faults/test_dispatchers.py"
    "::test_after_hours_without_a_worker_the_queue_is_bounded_and_one_worker_catches_up",
    "G9": "tests/integration/test_verify.py::test_any_damage_to_a_row_is_found_and_repaired",
}


@pytest.fixture(scope="module")
def first_tier() -> set[str]:
    """Return the tests of the first tier, with their parameters and without."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--tier", "first", "-p", "no:cacheprovider"]
    shown = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stdout
    found = {line for line in shown.splitlines() if "::" in line}
    return found | {test.partition("[")[0] for test in found}


def test_every_guarantee_has_a_fault_test_in_the_first_tier(first_tier: set[str]) -> None:
    assert set(FAULTS) == set(GUARANTEES)
    assert set(FAULTS.values()) <= first_tier


def test_nine_of_ten_planted_bugs_name_a_test_of_the_first_tier(first_tier: set[str]) -> None:
    left_to_later = [each.name for each in MUTANTS if first_tier.isdisjoint(each.tests)]
    assert len(left_to_later) <= (1 - FIRST_TIER_SHARE) * len(MUTANTS), left_to_later
