"""The soak's judge sees what leaks and is not misled by what does not; its legend knows each key, and no other."""

import io
import json
import random
from collections import Counter
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from tests.soak.judge import AtMost, Constant, Flat
from tests.soak.keys import RQ_KEYS, Legend, documented
from tests.soak.picture import draw
from tests.soak.plan import Plan
from tests.soak.report import HOT_TABLES, document, show
from tests.soak.rules import rules
from tests.soak.run import Soak

pytestmark = pytest.mark.full

COUNT = 240
MEMORY = Flat(4.0, "the allocator's reserve")


def noisy(number: int) -> float:
    return 100 + random.Random(number).uniform(-1, 1)


def test_what_stays_as_it_is_is_flat_however_it_trembles() -> None:
    found = MEMORY.judge([noisy(number) for number in range(COUNT)])
    assert found.flat
    assert abs(found.after - found.before) < 0.5


def test_a_slow_steady_leak_is_seen_through_the_noise() -> None:
    found = MEMORY.judge([noisy(number) + 10 * number / COUNT for number in range(COUNT)])
    assert not found.flat
    assert found.after - found.before == pytest.approx(5, abs=0.5)


def test_a_leak_that_stays_within_the_tolerance_is_not_told() -> None:
    assert MEMORY.judge([noisy(number) + 6 * number / COUNT for number in range(COUNT)]).flat


@pytest.mark.parametrize("at", [COUNT // 2, 3 * COUNT // 4])
def test_one_step_up_that_stays_is_seen(at: int) -> None:
    assert not MEMORY.judge([noisy(number) + 5 * (number >= at) for number in range(COUNT)]).flat


def test_warming_up_in_the_first_quarter_is_no_leak() -> None:
    assert MEMORY.judge([noisy(number) + min(50, number) for number in range(COUNT)]).flat


@pytest.mark.parametrize("period", [3, 7, 25, 40])
def test_a_sawtooth_that_always_falls_back_is_flat(period: int) -> None:
    assert MEMORY.judge([100 + 30 * (number % period) / period for number in range(COUNT)]).flat


def test_a_sawtooth_that_falls_back_less_each_time_is_not_flat() -> None:
    assert not MEMORY.judge([100 + 30 * (number % 25) / 25 + number / 15 for number in range(COUNT)]).flat


def test_a_single_peak_is_no_leak_but_may_be_more_than_is_allowed() -> None:
    values = [10.0] * COUNT
    values[150] = 500
    assert MEMORY.judge(values).flat
    assert not AtMost(499, "").judge(values).flat
    assert AtMost(500, "").judge(values).flat


def test_what_shrinks_is_no_leak() -> None:
    assert MEMORY.judge([500.0 - number for number in range(COUNT)]).flat


def test_a_share_allows_more_of_what_is_large() -> None:
    values = [1000.0 + number for number in range(COUNT)]  # by 120 from the one quarter to the other
    assert not Flat(10, "", share=0.1).judge(values).flat
    assert Flat(10, "", share=0.2).judge(values).flat


def test_what_must_never_change_may_not_even_for_a_moment() -> None:
    assert Constant("").judge([7.0] * COUNT).flat
    assert not Constant("").judge([7.0] * 5 + [8.0] + [7.0] * COUNT).flat


def test_the_legend_knows_documented_keys_and_no_other() -> None:
    legend = Legend([*documented(), *RQ_KEYS])
    known = {
        "events:{3}": "events:{p}",
        "events:{3}:projected-count": "events:{p}:projected-count",
        "events:partitions": "events:partitions",
        "projector:drain-lease:{12}": "projector:drain-lease:{p}",
        "projector:verify:wrong-sums": "projector:verify:wrong-sums",
        "rq:job:0a-1": "rq:job:{job}",
        "rq:wip:projector": "rq:wip:{queue}",
    }
    assert {key: legend.of(key) for key in known} == known
    for stranger in (
        "events:3",
        "events:{3}:other",
        "events:{x}",
        "projector:drain-lease",
        "rq:job",
        "rq:other:x",
        "x",
    ):
        assert legend.of(stranger) is None
    assert len(documented()) >= 15
    assert max(Counter(documented()).values()) == 1


def synthetic(leaking: str = "") -> Soak:
    plan = Plan(minutes=12)
    samples = [dict.fromkeys(rules(plan), 0.0) | {"rows of event_log": 9.0 * number} for number in range(40)]
    for number, sample in enumerate(samples):
        if leaking:
            sample[leaking] = 5_000.0 * number
    return Soak(plan, at_s=[18.0 * number for number in range(40)], samples=samples)


def test_a_soak_whose_series_are_all_flat_has_no_fault() -> None:
    assert synthetic().faults() == []


@pytest.mark.parametrize("leaking", rules(Plan(minutes=12)))
def test_whatever_leaks_is_named_with_its_numbers_its_limit_and_the_reason(leaking: str) -> None:
    (fault,) = synthetic(leaking).faults()
    assert fault.startswith(f"{leaking}: ")
    assert rules(Plan(minutes=12))[leaking].why in fault


def test_a_soak_that_was_broken_off_is_not_called_well() -> None:
    made = synthetic()
    assert Soak(made.plan, samples=made.samples[:3]).faults() == ["3 samples are too few"]


def test_the_table_tells_what_is_flat_and_what_is_not_and_the_document_holds_every_sample() -> None:
    made = synthetic("jobs of failed")
    made.updates = {name: {"dead": 1, "updated": 4, "hot": 3} for name in HOT_TABLES}
    console = Console(width=240, file=io.StringIO(), record=True)
    show(console, made)
    text = console.export_text()
    assert "NOT WELL: jobs of failed: " in text
    assert "75.0%" in text
    assert "all is flat" not in text
    told = document(made, {"date": "today"})
    assert len(told["samples"]["jobs of failed"]) == len(told["at_s"]) == len(made.samples)
    assert [each["series"] for each in told["judged"] if not each["flat"]] == ["jobs of failed"]
    assert json.loads(json.dumps(told)) == told


def test_the_picture_is_well_formed_and_names_what_is_not_flat() -> None:
    shown = draw(synthetic("memory of worker 1"), "today & here")
    ET.fromstring(shown)
    assert "NOT FLAT" in shown
    assert "NOT FLAT" not in draw(synthetic(), "today")
