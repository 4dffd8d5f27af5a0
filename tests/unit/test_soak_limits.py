"""The limits of the soak find leaks and ignore noise; key patterns match only documented keys."""

import io
import json
import random
from collections import Counter
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from tests.soak.charts import draw
from tests.soak.limits import AtMost, Constant, Flat
from tests.soak.plan import Plan
from tests.soak.redis_keys import RQ_KEYS, KeyPatterns, documented
from tests.soak.report import HOT_TABLES, document, show
from tests.soak.run import Soak
from tests.soak.series_limits import limits_of

pytestmark = pytest.mark.full

COUNT = 240
MEMORY = Flat(4.0, "the allocator's reserve")


def noisy(number: int) -> float:
    return 100 + random.Random(number).uniform(-1, 1)


def test_a_constant_series_with_noise_is_flat() -> None:
    found = MEMORY.measure([noisy(number) for number in range(COUNT)])
    assert found.flat
    assert abs(found.after - found.before) < 0.5


def test_a_slow_steady_leak_is_found_despite_noise() -> None:
    found = MEMORY.measure([noisy(number) + 10 * number / COUNT for number in range(COUNT)])
    assert not found.flat
    assert found.after - found.before == pytest.approx(5, abs=0.5)


def test_growth_within_the_tolerance_is_flat() -> None:
    assert MEMORY.measure([noisy(number) + 6 * number / COUNT for number in range(COUNT)]).flat


@pytest.mark.parametrize("at", [COUNT // 2, 3 * COUNT // 4])
def test_one_lasting_step_is_not_flat(at: int) -> None:
    assert not MEMORY.measure([noisy(number) + 5 * (number >= at) for number in range(COUNT)]).flat


def test_growth_in_the_first_quarter_is_ignored() -> None:
    assert MEMORY.measure([noisy(number) + min(50, number) for number in range(COUNT)]).flat


@pytest.mark.parametrize("period", [3, 7, 25, 40])
def test_a_level_sawtooth_is_flat(period: int) -> None:
    assert MEMORY.measure([100 + 30 * (number % period) / period for number in range(COUNT)]).flat


def test_a_rising_sawtooth_is_not_flat() -> None:
    assert not MEMORY.measure([100 + 30 * (number % 25) / 25 + number / 15 for number in range(COUNT)]).flat


def test_a_single_peak_is_flat_but_may_exceed_a_maximum() -> None:
    values = [10.0] * COUNT
    values[150] = 500
    assert MEMORY.measure(values).flat
    assert not AtMost(499, "").measure(values).flat
    assert AtMost(500, "").measure(values).flat


def test_a_shrinking_series_is_flat() -> None:
    assert MEMORY.measure([500.0 - number for number in range(COUNT)]).flat


def test_a_relative_tolerance_scales_with_the_value() -> None:
    values = [1000.0 + number for number in range(COUNT)]  # growth of 120 between the two quarters
    assert not Flat(10, "", share=0.1).measure(values).flat
    assert Flat(10, "", share=0.2).measure(values).flat


def test_a_constant_limit_allows_no_change_even_for_one_sample() -> None:
    assert Constant("").measure([7.0] * COUNT).flat
    assert not Constant("").measure([7.0] * 5 + [8.0] + [7.0] * COUNT).flat


def test_only_documented_keys_are_recognised() -> None:
    patterns = KeyPatterns([*documented(), *RQ_KEYS])
    known = {
        "events:{3}": "events:{p}",
        "events:{3}:projected-count": "events:{p}:projected-count",
        "events:partitions": "events:partitions",
        "projector:drain-lease:{12}": "projector:drain-lease:{p}",
        "projector:verify:wrong-sums": "projector:verify:wrong-sums",
        "rq:job:0a-1": "rq:job:{job}",
        "rq:wip:projector": "rq:wip:{queue}",
    }
    assert {key: patterns.match(key) for key in known} == known
    for unknown in (
        "events:3",
        "events:{3}:other",
        "events:{x}",
        "projector:drain-lease",
        "rq:job",
        "rq:other:x",
        "x",
    ):
        assert patterns.match(unknown) is None
    assert len(documented()) >= 15
    assert max(Counter(documented()).values()) == 1


def synthetic(leaking: str = "") -> Soak:
    plan = Plan(minutes=12)
    samples = [dict.fromkeys(limits_of(plan), 0.0) | {"rows of event_log": 9.0 * number} for number in range(40)]
    for number, sample in enumerate(samples):
        if leaking:
            sample[leaking] = 5_000.0 * number
    return Soak(plan, at_s=[18.0 * number for number in range(40)], samples=samples)


def test_a_soak_whose_series_are_all_flat_has_no_failure() -> None:
    assert synthetic().failures() == []


@pytest.mark.parametrize("leaking", limits_of(Plan(minutes=12)))
def test_a_leaking_series_is_reported_with_its_numbers_its_limit_and_the_reason(leaking: str) -> None:
    (fault,) = synthetic(leaking).failures()
    assert fault.startswith(f"{leaking}: ")
    assert limits_of(Plan(minutes=12))[leaking].why in fault


def test_an_interrupted_soak_fails() -> None:
    made = synthetic()
    assert Soak(made.plan, samples=made.samples[:3]).failures() == ["3 samples are too few"]


def test_the_table_shows_which_series_are_flat_and_the_document_contains_every_sample() -> None:
    made = synthetic("jobs of failed")
    made.updates = {name: {"dead": 1, "updated": 4, "hot": 3} for name in HOT_TABLES}
    console = Console(width=240, file=io.StringIO(), record=True)
    show(console, made)
    text = console.export_text()
    assert "FAILED: jobs of failed: " in text
    assert "75.0%" in text
    assert "all is flat" not in text
    written = document(made, {"date": "today"})
    assert len(written["samples"]["jobs of failed"]) == len(written["at_s"]) == len(made.samples)
    assert [each["series"] for each in written["results"] if not each["flat"]] == ["jobs of failed"]
    assert json.loads(json.dumps(written)) == written


def test_the_chart_is_well_formed_and_names_the_series_that_are_not_flat() -> None:
    shown = draw(synthetic("memory of worker 1"), "today & here")
    ET.fromstring(shown)
    assert "NOT FLAT" in shown
    assert "NOT FLAT" not in draw(synthetic(), "today")
