"""What the run book says is true of the code: alerts, commands, reasons, codes, log lines, numbers."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml
from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from api_stub.lookups.coalesce import WAIT_S
from api_stub.lookups.lookup import Postgresql
from api_stub.reads import Reads
from api_stub.routes.registry import READS
from cli.commands import api
from cli.local import watchdog
from cli.main import projector
from event_stream.envelope import BODY_BYTES_MAX, Reason
from event_stream.settings import StreamSettings
from projections.database import engines
from tests.soak.keys import DOCUMENTING, documented
from workers.dispatch import dispatcher, trimmer
from workers.doctor.context import Limits
from workers.doctor.registry import CHECKS
from workers.drain import batch_size, circuit_breaker, drainer
from workers.reporting.status import FAILURES_MAX
from workers.telemetry import progress

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "runbook.md").read_text()
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
FENCED = re.compile(r"^```(\w*)(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
POSTGRESQL = "postgresql+psycopg://nobody@127.0.0.1/nothing"
PROSE = FENCED.sub("", PAGE)
HEADINGS = re.findall(r"^#+ (.*)", PROSE, re.MULTILINE)


def chapter(title: str) -> str:
    """Return what stands below a heading of the second level."""
    return re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of the tables in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def commands() -> list[str]:
    """Return every command line of ours: in the blocks of shell, and whole between backticks."""
    shell = "\n".join(re.sub(" #.*", "", text) for kind, _, text in FENCED.findall(PAGE) if kind == "sh")
    return [
        *re.findall(r"\bprojector [^\n|)]*", shell),
        *re.findall(r"`(projector [^`]+)`", PROSE),
    ]


def test_every_alert_has_its_section_and_no_other_has() -> None:
    assert re.findall(r"^### (.*)", chapter("Alerts"), re.MULTILINE) == [rule["alert"] for rule in RULES]
    for section in chapter("Alerts").split("\n### ")[1:]:
        assert re.findall(r"^\* \*\*(\w+)\*\*: ", section, re.MULTILINE) == ["Means", "Likely", "First", "Then"]


def test_an_alert_leads_to_its_section() -> None:
    for rule in RULES:
        assert rule["annotations"]["remedy"].endswith(f" See docs/runbook.md#{rule['alert'].lower()}.")


def test_every_link_within_the_page_leads_to_a_heading() -> None:
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADINGS}
    assert len(anchors) == len(HEADINGS)
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert len(links) > 20
    assert set(links) <= anchors


@pytest.mark.parametrize("line", sorted({line.strip() for line in commands()}))
def test_a_command_has_this_name_and_takes_these_options(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "events.jsonl").touch()
    command: click.Command = projector
    words = shlex.split(line)[1:]
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    if words:
        command.make_context(line, words)


def test_commands_are_found_in_prose_and_in_blocks() -> None:
    found = {line.strip() for line in commands()}
    assert {"projector migrate", "projector verify", "projector keys create --tenant ten_acme"} <= found


def test_every_reason_of_a_dead_letter_says_what_to_do() -> None:
    listed = [cells for cells in rows(chapter("Dead letters")) if cells[0].startswith("`")]
    assert [cells[0].strip("`") for cells in listed] == [reason.value for reason in Reason]
    assert all(len(cells) == 3 and len(cells[2]) > 5 for cells in listed)


def test_every_code_of_the_doctor_that_is_named_exists() -> None:
    sides = {check.code.partition("-")[0] for check in CHECKS}
    named = {code for code in re.findall(r"`([a-z]+-[a-z-]+)`", PROSE) if code.partition("-")[0] in sides}
    assert len(named) > 8
    assert named <= {check.code for check in CHECKS}


def test_the_table_of_redis_keys_lists_every_documented_key_and_no_other() -> None:
    listed = [key.strip("`") for key, *_ in rows(chapter("Redis keys"))[2:]]
    assert sorted(listed) == sorted(documented([*DOCUMENTING, watchdog]))


def test_every_log_line_that_is_named_is_logged() -> None:
    packages = ("cli", "monitoring", "workers", "api_stub", "projections")
    code = "\n".join(file.read_text() for package in packages for file in (ROOT / package).rglob("*.py"))
    logged = set(re.findall(r'log\.(?:info|warning|error)\(\s*"([a-z_.]+)"', code))
    named = {event for cells in rows(chapter("Log lines")) for event in re.findall(r"`([a-z_]+\.[a-z_]+)`", cells[0])}
    assert len(named) > 10
    assert named <= logged


def test_the_connections_in_the_table_are_what_the_pools_allow() -> None:
    writer, reader = engines.writer_engine(POSTGRESQL), engines.reader_engine(POSTGRESQL)
    reads = len(READS)
    assert len(Reads(Postgresql(reader), 0).coalescers) == 1 + reads
    own_checks = engines.reader_engine(POSTGRESQL, pool_size=api.THREADS)
    command = most(writer) + most(reader)
    worker = command + most(engines.audit_engine(POSTGRESQL, 1.0))
    beside_reads = 1 + most(own_checks) + most(reader)  # keys, readiness, health and metrics
    sizes = chapter("Sizes and connections")
    at_most = {cells[0].split("`")[1]: cells[2] for cells in rows(sizes) if "`projector" in cells[0]}
    assert at_most == {
        "projector worker": f"{worker}",
        "projector dispatcher": f"{command}",
        "projector api": f"{beside_reads} + reads",
        "projector status": f"{command}",
    }
    text = " ".join(sizes.split())
    per_api = f"({beside_reads} + reads)"
    assert (
        f"{worker} × workers + {command} × dispatchers + {per_api} × API processes + {command} for each command" in text
    )
    parts = (8 * worker, 2 * command, 4 * (beside_reads + 2), 2 * command, 3)
    assert "8 workers, 2 dispatchers, 4 API processes with two reads and 2 commands are" in text
    assert f"are {' + '.join(map(str, parts))} = {sum(parts)};" in text


def most(engine: Engine) -> int:
    """Return how many connections a pool ever holds."""
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool._max_overflow == 0
    return engine.pool.size()


def test_the_limits_to_put_on_a_role_are_those_of_a_session() -> None:
    told = dict(re.findall(r"SET (\w+) = '(\w+)';", PAGE))
    assert len(told) == 3
    assert told == {name: engines._POSTGRESQL_SESSION[name] for name in told}


@pytest.mark.parametrize(
    ("says", "number"),
    [
        ("whose projection was committed {} s ago", trimmer.TRIM_BEHIND_S),
        ("wait for more than {} s, and none was projected", progress.STALLED_AFTER_S),
        ("no sign of life for more than {} s", progress.STALLED_AFTER_S),
        ("it is forgotten {} minutes later", dispatcher.HEARTBEAT_TTL_S / 60),
        ("It waits up to {} s between tries", batch_size.BACK_OFF_MAX_S),
        ("It tries again at the latest {} s later", batch_size.BACK_OFF_MAX_S),
        ("{} or more batches of a partition failed", FAILURES_MAX),
        ("saw in {} minutes fail", circuit_breaker.WINDOW_S / 60),
        ("tries the next event every {} s", circuit_breaker.PROBE_S),
        ("after failing alone {}", batch_size.FAILURES_ALONE_MAX),
        ("the drain that it is in (about {} s)", drainer.BUDGET_S),
        ("it has answered what it was asked ({} s at most)", api.SHUTDOWN_S),
        ("the database is away, slow ({} s)", WAIT_S),
        ("of at most {} entries", batch_size.ENTRIES_MAX),
        ("only while they stay under {} MiB", batch_size.BYTES_MAX / 2**20),
        ("is over {} KiB", BODY_BYTES_MAX / 1024),
        ("warns below {} GiB", Limits().disk_free_bytes / 2**30),
    ],
)
def test_a_number_is_the_one_in_the_code(says: str, number: float) -> None:
    words = {2: "two", 3: "three", 5: "five"}
    text = " ".join(PAGE.split()).lower()
    told = [f"{number:,.0f}", words.get(int(number), ""), "twice" if number == 2 else ""]
    assert any(says.format(each).lower() in text for each in told if each), says


def test_the_memory_that_a_backlog_may_take_is_worked_out_from_the_defaults() -> None:
    settings = StreamSettings()
    (entry_bytes,) = map(int, re.findall(r"\((\d+) bytes for events of 350\)", PAGE))
    gigabytes = settings.partitions * settings.backlog_limit * entry_bytes / 1e9
    assert f"that is {gigabytes:.0f} GB" in " ".join(PAGE.split())
