"""What `projector status` looks like: it fits, it is plain in a pipe, and it shows what producers wrote as it is."""

import io
import re

import pytest
from rich.console import Console

from cli.look import age, short
from cli.screen import Screen
from cli.sparkline import ASCII_BARS, sparkline
from projections.faults import Fault
from workers.overview import Overview
from workers.progress import Failure
from workers.rates import Rate
from workers.status import PartitionStatus, ProcessStatus, ProjectionStatus
from workers.tenants import SHOWN, Tenants, Traffic, Waiting
from workers.verified import Verified

MILLIONS = 12_345_678
FAILURE = Failure(fault=Fault.WORLD, error="OperationalError: it is away", failures=7, next_batch=1, pause_s=12.0)


def partition(number: int, failure: Failure | None = None) -> PartitionStatus:
    return PartitionStatus(
        partition=number,
        epoch=0,
        position="1795459704364-2",
        end=None,
        lag_entries=MILLIONS,
        lag_s=3_000.0,
        added=3 * MILLIONS,
        read=2 * MILLIONS,
        applied=MILLIONS,
        duplicates=999_999,
        parked=12_345,
        lost=999,
        in_flight=MILLIONS,
        stalled=True,
        failure=failure,
    )


def overview(tenant: str = "ten_acme") -> Overview:
    process = ProcessStatus(name="worker-host.123456.0123abcd", host="h", pid=1, state="busy", idle_s=0.2)
    return Overview(
        partitions=[partition(0), partition(1, FAILURE)],
        dead_letters={"unknown_type": MILLIONS},
        queue_length=3,
        workers=[process, process.model_copy(update={"idle_s": 44.0})],
        dispatchers=[process],
        breaker=None,
        projections=[ProjectionStatus(name="analysis_trend", version=2, due=MILLIONS, newer=0)],
        verified=Verified(),
        at_ms=1_795_459_704_364,
        rates=[Rate(partition=number, per_s=1234.5, lately=600, history=[10] * 60) for number in range(2)],
        tenants=Tenants(
            by_traffic=[Traffic(tenant_id=tenant, partition=0, per_s=1234.5)] * SHOWN,
            by_lag=[Waiting(tenant_id=tenant, partition=0, entries=MILLIONS, lag_s=1.0)] * SHOWN,
            traffic_is_sample=True,
            lag_is_sample=True,
        ),
    )


def at_terminal(found: Overview, width: int) -> str:
    console = Console(width=width, force_terminal=True, record=True, file=io.StringIO())
    console.print(Screen(found))
    return console.export_text()


def in_pipe(found: Overview) -> str:
    console = Console(width=240, file=io.StringIO(), record=True)
    console.print(Screen(found))
    return console.export_text()


@pytest.mark.parametrize("tenant", ["ten_acme", "x" * 64])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int, tenant: str) -> None:
    shown = at_terminal(overview(tenant), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "failing" in shown
    assert "Most in flight, of the oldest" in shown


def test_eighty_columns_show_every_number_but_sums_and_shorten_it() -> None:
    shown = at_terminal(overview(), 80)
    for needed in ("position", "applied", "parked", "lost", "flight", "lag", "per s", "12.3M", "50 min"):
        assert needed in shown, needed
    assert "…" not in shown.partition("Failing")[0]
    assert "added" not in shown.partition("Partitions")[2]
    assert "added" in at_terminal(overview(), 130).partition("Partitions")[2]


def test_what_is_wrong_stands_first() -> None:
    shown = at_terminal(overview(), 100)
    assert shown.index("failing") < shown.index("is stalled") < shown.index("Partitions") < shown.index("Failing")
    assert "1 of 2 workers gave no sign of life for more than 30 s" in shown
    assert re.search(r"worker .* silent +44\.0 s", shown)


def test_in_a_pipe_there_are_no_frames_bars_or_shortened_numbers() -> None:
    shown = in_pipe(overview())
    assert not re.search(r"[\u2500-\u28ff\x1b]", shown)
    assert "12,345,678" in shown
    heads = ["p", "position", "added", "read", "applied", "duplicates", "parked", "lost", "in flight", "lag s"]
    table = shown.partition("Partitions\n")[2].splitlines()
    assert re.split(r"\s{2,}", table[0].strip()) == [*heads, "per s", "per s, 10 min"]
    assert table[1].split()[:3] == ["0", "1795459704364-2", "37,037,034"]
    assert [len(line.rstrip()) for line in table[1:4]] == [len(table[1].rstrip())] * 3


def test_a_terminal_without_unicode_gets_ascii() -> None:
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding="ascii")
    Console(width=100, force_terminal=True, file=file, color_system=None).print(Screen(overview()))
    file.flush()
    assert "10 min" in written.getvalue().decode("ascii")


def test_what_producers_wrote_is_no_markup() -> None:
    failing = partition(1, FAILURE.model_copy(update={"error": "KeyError: [red]x[/red]"}))
    shown = at_terminal(overview().model_copy(update={"partitions": [partition(0), failing]}), 120)
    assert "[red]x[/red]" in shown


def test_a_bar_is_the_lowest_only_where_nothing_happened() -> None:
    assert sparkline([0, 0, 1, 0, 50, 50, 100, 0], 4, 100) == "▁▂██"
    assert sparkline([0, 1, 100], 3, 100, ASCII_BARS) == "_.#"
    assert sparkline([0, 0], 2, 0) == "▁▁"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999_999, "999,999"), (1_000_000, "1.0M"), (2_500_000_000, "2.5G"), (10**12, "1.0T")],
)
def test_a_number_is_short(number: int, shown: str) -> None:
    assert short(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0 s"), (119.9, "119.9 s"), (120, "2 min"), (7_200, "2 h"), (40 * 86_400, "40 d")]
)
def test_an_age_is_told_in_its_unit(seconds: float, shown: str) -> None:
    assert age(seconds) == shown
