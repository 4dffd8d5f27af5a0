"""The screen of `projector status` fits the terminal, is plain in a pipe and shows what producers wrote unchanged."""

import io
import re

import pytest
from rich.console import Console

from cli.rendering.status_screen import StatusScreen, short_count, short_duration
from projections.error_classes import ErrorClass
from workers.deployment import Deployment
from workers.maintenance.verify_results import VerificationSummary
from workers.reporting.overview import Overview
from workers.reporting.status import PartitionStatus, ProcessStatus, ProjectionStatus
from workers.reporting.tenants import TENANTS_SHOWN, BusiestTenants, TenantLag, TenantTraffic
from workers.telemetry.apply_rates import Rate
from workers.telemetry.progress import BatchFailure

MILLIONS = 12_345_678
FAILURE = BatchFailure(
    fault=ErrorClass.EXTERNAL,
    error="OperationalError: it is away",
    consecutive_failures=7,
    next_batch_entries=1,
    retry_after_s=12.0,
)


def partition(number: int, failure: BatchFailure | None = None) -> PartitionStatus:
    return PartitionStatus(
        partition=number,
        epoch=0,
        position="1795459704364-2",
        end_position=None,
        lag_entries=MILLIONS,
        lag_s=3_000.0,
        id_ahead_s=0.0,
        ids_exhausted=False,
        added=3 * MILLIONS,
        read=2 * MILLIONS,
        applied=MILLIONS,
        duplicates=999_999,
        dead_lettered=12_345,
        lost_not_acknowledged=0,
        lost=999,
        in_flight=MILLIONS,
        stalled=True,
        failure=failure,
    )


def overview(tenant: str = "ten_acme") -> Overview:
    process = ProcessStatus(name="worker-host.123456.0123abcd", host="h", pid=1, state="busy", heartbeat_age_s=0.2)
    return Overview(
        deployment=Deployment(
            database="the database d at h",
            database_id="019635a4",
            database_server=None,
            redis="Redis at h/0",
            redis_id="019635a4",
            redis_database_server=None,
        ),
        partitions=[partition(0), partition(1, FAILURE)],
        read_from_standby=False,
        open_dead_letters={"unknown_type": MILLIONS},
        redis_refusal=None,
        dead_letters_not_kept={},
        dead_letter_sources=[],
        queue_length=3,
        workers=[process, process.model_copy(update={"heartbeat_age_s": 44.0})],
        dispatchers=[process],
        breaker_open_reason=None,
        projections=[
            ProjectionStatus(
                name="analysis_trend", version=2, rebuild_pending_tenants=MILLIONS, newer_version_tenants=0
            )
        ],
        verification=VerificationSummary(),
        read_at_ms=1_795_459_704_364,
        rates=[
            Rate(partition=number, events_per_s=1234.5, events_last_10_min=600, history=[10] * 60)
            for number in range(2)
        ],
        tenants=BusiestTenants(
            by_traffic=[TenantTraffic(tenant_id=tenant, partition=0, events_per_s=1234.5)] * TENANTS_SHOWN,
            by_lag=[TenantLag(tenant_id=tenant, partition=0, entries=MILLIONS, lag_s=1.0)] * TENANTS_SHOWN,
            traffic_is_sample=True,
            lag_is_sample=True,
        ),
    )


def at_terminal(found: Overview, width: int) -> str:
    console = Console(width=width, force_terminal=True, record=True, file=io.StringIO())
    console.print(StatusScreen(found))
    return console.export_text()


def in_pipe(found: Overview) -> str:
    console = Console(width=240, file=io.StringIO(), record=True)
    console.print(StatusScreen(found))
    return console.export_text()


@pytest.mark.parametrize("tenant", ["ten_acme", "x" * 64])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal(width: int, tenant: str) -> None:
    shown = at_terminal(overview(tenant), width)
    assert max(map(len, shown.splitlines())) <= width
    assert "failing" in shown
    assert "Most in flight, of the oldest" in shown


@pytest.mark.parametrize("tenant", ["ten_acme", "x" * 64])
@pytest.mark.parametrize("width", [40, 80, 100, 120, 200])
def test_nothing_is_clipped(width: int, tenant: str) -> None:
    shown = at_terminal(overview(tenant), width)
    assert "…" not in shown
    tenants = shown.partition("Most traffic")[2]
    assert re.sub(r"[^x]", "", tenants).count("x" * 64) == (2 * TENANTS_SHOWN if tenant != "ten_acme" else 0)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_all_numbers_of_a_partition_are_on_one_line(width: int) -> None:
    table = at_terminal(overview(), width).partition("Partitions")[2]
    for head in ("position", "lag", "flight", "per s,", " 1 min", "10 min", "applied", "duplicates", "letters", "lost"):
        assert head in table.partition("1795459704364-2")[0], head
    (row,) = [" ".join(line.split()) for line in table.splitlines() if line.startswith("0 ")]
    assert row == "0 1795459704364-2 50 min 12.3M 1,234 1.0 12.3M 999,999 12,345 999"
    (total,) = [" ".join(line.split()) for line in table.splitlines() if line.startswith("all ")]
    assert total == "all 50 min 24.7M 2,469 2.0 24.7M 2.0M 24,690 1,998"


def test_small_tables_are_shown_side_by_side_where_they_fit() -> None:
    assert re.search(r"Most traffic.* Most in flight", at_terminal(overview(), 80))
    assert not re.search(r"Most traffic.* Most in flight", at_terminal(overview("x" * 64), 80))


def test_a_terminal_gets_colours() -> None:
    written = io.StringIO()
    Console(width=100, force_terminal=True, color_system="standard", file=written).print(StatusScreen(overview()))
    assert "\x1b[1;31mfailing\x1b[0m" in written.getvalue()


def test_problems_come_first() -> None:
    shown = at_terminal(overview(), 100)
    assert shown.index("failing") < shown.index("is stalled") < shown.index("Partitions") < shown.index("Failing")
    assert "1 of 2 workers sent no heartbeat for more than 30 s" in shown
    assert re.search(r"worker .* silent +44\.0 s", shown)


def test_the_sums_of_the_counters_are_shown() -> None:
    shown = at_terminal(overview(), 120)
    assert "74,074,068 added = 49,382,712 read + 24,691,356 in flight + 1,998 lost" in shown
    assert "49,382,712 read = 24,691,356 applied + 1,999,998 duplicates + 24,690 dead letters" in shown


def test_a_single_duplicate_is_not_a_plural() -> None:
    partitions = [partition(0).model_copy(update={"duplicates": 1, "dead_lettered": 1})]
    shown = at_terminal(overview().model_copy(update={"partitions": partitions, "rates": overview().rates[:1]}), 120)
    assert "applied + 1 duplicate + 1 dead letter\n" in re.sub(r" *│\n", "\n", shown)


def test_a_pipe_gets_no_frames_no_colours_and_full_numbers() -> None:
    shown = in_pipe(overview())
    assert not re.search(r"[\u2500-\u28ff\x1b]", shown)
    table = shown.partition("Partitions")[2].splitlines()
    (row,) = [re.split(r"\s{2,}", line.strip()) for line in table if line.startswith("0 ")]
    numbers = ["3,000.0 s", "12,345,678", "1,234", "1.0", "12,345,678", "999,999", "12,345", "999"]
    assert row == ["0", "1795459704364-2", *numbers]
    assert re.search(r"unknown_type +12,345,678\n", shown)
    assert [line for line in shown.splitlines() if line.startswith("health: ")] == ["health: failing"]


def test_a_terminal_without_unicode_gets_ascii() -> None:
    written = io.BytesIO()
    file = io.TextIOWrapper(written, encoding="ascii")
    Console(width=100, force_terminal=True, file=file, color_system=None).print(StatusScreen(overview()))
    file.flush()
    assert "10 min" in written.getvalue().decode("ascii")


def test_text_from_producers_is_never_interpreted_as_markup() -> None:
    failing = partition(1, FAILURE.model_copy(update={"error": "KeyError: [red]x[/red]"}))
    shown = at_terminal(overview().model_copy(update={"partitions": [partition(0), failing]}), 120)
    assert "[red]x[/red]" in shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0"), (999_999, "999,999"), (1_000_000, "1.0M"), (2_500_000_000, "2.5G"), (10**12, "1.0T")],
)
def test_a_large_count_is_abbreviated(number: int, shown: str) -> None:
    assert short_count(number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.04, "0.0 s"), (119.9, "119.9 s"), (120, "2 min"), (7_200, "2 h"), (40 * 86_400, "40 d")]
)
def test_a_duration_is_shown_in_its_largest_unit(seconds: float, shown: str) -> None:
    assert short_duration(seconds) == shown
