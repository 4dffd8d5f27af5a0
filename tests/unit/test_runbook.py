"""The how-to pages match the code: alerts, problems, commands, reasons, codes, log lines, numbers."""

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from api_stub.handlers import ReadHandlers
from api_stub.lookups.coalesce import QUERY_TIMEOUT_S
from api_stub.lookups.postgresql import PostgresqlDatabase
from api_stub.routes.registry import READS
from api_stub.serving import listener
from api_stub.settings import ApiSettings
from cli.commands import api
from cli.local import watchdog
from cli.main import projector
from event_stream.errors import Reason
from event_stream.events import decoding, event_types, upcasting
from event_stream.events.json_body import BODY_BYTES_MAX
from event_stream.settings import StreamSettings
from event_stream.streams.stream import READ_BYTES_MAX
from projections.database import engines, postgresql_engine
from projections.error_classes import ErrorClass
from tests.soak.redis_keys import DOCUMENTING_MODULES, documented
from tests.support.events import body, event
from workers.deployment import Deployment
from workers.dispatch import dispatcher, rq_worker, trimmer
from workers.doctor.context import Limits
from workers.doctor.registry import CHECKS
from workers.drain import batch_size, circuit_breaker, drainer, poison
from workers.jobs.queue import QUEUE_NAME, DrainJob
from workers.maintenance import verify_jobs
from workers.maintenance.verify_results import VerificationSummary
from workers.reporting import problems
from workers.reporting.problems import FAILING_AFTER
from workers.reporting.status import PartitionStatus, ProcessStatus, ProjectionStatus, Status
from workers.telemetry import progress
from workers.telemetry.dead_letter_sources import DeadLetterSource
from workers.telemetry.progress import BatchFailure

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "how-to"
DEPLOY, RUN_BOOK, TROUBLESHOOTING, CHANGE = (
    (FOLDER / f"{name}.md").read_text() for name in ("deploy", "run-book", "troubleshooting", "change-an-event")
)
PAGE = "\n".join(path.read_text() for path in sorted(FOLDER.glob("*.md")))
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "monitoring" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
FENCED = re.compile(r"^```(\w*)(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PACKAGES = ("event_stream", "projections", "workers", "api_stub", "monitoring", "cli", "migrations")
CHANGE_PAGE = str(FOLDER / "change-an-event.md")
SECTIONS = ["Meaning", "Likely cause", "Check first", "Remedy"]
POSTGRESQL = "postgresql+psycopg://nobody@127.0.0.1/nothing"
PROSE = FENCED.sub("", PAGE)


def chapter(title: str, page: str = RUN_BOOK) -> str:
    """Return the text below a heading of the second level."""
    return re.split(r"^## ", page.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of the tables in a text."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def commands() -> list[str]:
    """Return every command line of `projector`, from shell blocks and between backticks."""
    shell = "\n".join(re.sub(" #.*", "", text) for kind, _, text in FENCED.findall(PAGE) if kind == "sh")
    return [
        *re.findall(r"\bprojector [^\n|)]*", shell),
        *re.findall(r"`(projector [^`]+)`", PROSE),
    ]


def source() -> str:
    """Return the text of all packages."""
    return "\n".join(file.read_text() for package in PACKAGES for file in (ROOT / package).rglob("*.py"))


def test_every_alert_has_its_section_and_no_other_has() -> None:
    assert re.findall(r"^### (.*)", chapter("Alerts"), re.MULTILINE) == [rule["alert"] for rule in RULES]
    for section in chapter("Alerts").split("\n### ")[1:]:
        assert re.findall(r"^\* \*\*([\w ]+)\*\*: ", section, re.MULTILINE) == SECTIONS


def test_an_alert_links_to_its_section() -> None:
    for rule in RULES:
        assert rule["annotations"]["remedy"].endswith(f" See docs/how-to/run-book.md#{rule['alert'].lower()}.")


def test_every_link_between_the_pages_leads_to_a_heading() -> None:
    pages = {path.name: FENCED.sub("", path.read_text()) for path in FOLDER.glob("*.md")}
    anchors = {
        name: [anchor(heading) for heading in re.findall(r"^#+ (.*)", text, re.MULTILINE)]
        for name, text in pages.items()
    }
    links = [
        (target or name, heading)
        for name, text in pages.items()
        for target, heading in re.findall(r"\]\(([\w-]+\.md|)#([^)]+)\)", text)
    ]
    assert len(links) > 60
    assert [link for link in links if link[1] not in anchors[link[0]]] == []
    assert all(len(set(each)) == len(each) for each in anchors.values())


def anchor(heading: str) -> str:
    """Return the anchor that GitHub creates for a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_every_problem_that_status_names_is_in_the_table_of_problems() -> None:
    silent = ProcessStatus(name="vm.1", host="vm", pid=1, state="idle", heartbeat_age_s=60)
    failure = BatchFailure(
        fault=ErrorClass.EXTERNAL,
        error="DiskFull: no room",
        consecutive_failures=3,
        next_batch_entries=1,
        retry_after_s=1,
    )
    stalled = PartitionStatus(
        partition=3, epoch=0, position="0-0", end_position="1-0", lag_entries=1, lag_s=60, id_ahead_s=600, ids_exhausted=False, added=3, read=1, applied=1,
        duplicates=0, dead_lettered=0, lost=2, lost_not_acknowledged=2, in_flight=1, stalled=True, failure=failure,
    )  # fmt: skip
    exhausted = {"ids_exhausted": True, "id_ahead_s": 0, "stalled": False, "failure": None, "lost_not_acknowledged": 0}
    differs = Deployment(
        database="d", database_id="1", database_server="s", redis="r", redis_id="2", redis_database_server="s"
    )
    found = Status(
        deployment=differs,
        partitions=[stalled, stalled.model_copy(update=exhausted)],
        read_from_standby=False,
        open_dead_letters={"not_json": 1},
        redis_refusal=None,
        dead_letters_not_kept={},
        dead_letter_sources=[DeadLetterSource(partition=3, source="/watchdog", entries=1_000)],
        unread_streams={"events:5": 1},
        queue_length=0,
        workers=[],
        dispatchers=[],
        breaker_open_reason="why",
        projections=[ProjectionStatus(name="activity", version=1, rebuild_pending_tenants=1, newer_version_tenants=1)],
        verification=VerificationSummary(
            mismatched_rows=2, mismatched_tenants=1, log_errors={3: "a gap"}, overdue_tenants=1
        ),
    )
    refusing = found.model_copy(update={"redis_refusal": "NOREPLICAS"})
    beside = found.model_copy(update={"workers": [silent, silent.model_copy(update={"heartbeat_age_s": 0})]})
    listed = [cells for cells in rows(chapter("Problems")) if cells[1] in ("failing", "degraded")]
    shown = {state: [pattern(cells[0]) for cells in listed if cells[1] == state] for state in ("failing", "degraded")}
    named = {
        "failing": sorted({*problems.errors(found), *problems.errors(refusing)}),
        "degraded": [*problems.warnings(found), *problems.silent_processes(beside)],
    }
    for state, said in named.items():
        assert sum(len(re.findall(each, problem)) for each in shown[state] for problem in said) == len(said)
        assert len(shown[state]) == len(said)


def pattern(shown: str) -> str:
    """Return an expression for a problem as the page shows it: N is a number, … a name or a number."""
    return "^" + re.escape(shown).replace("…", ".+").replace("N", r"[\d,]+")


def test_every_problem_links_to_a_section() -> None:
    assert {cells[2] for cells in rows(chapter("Problems"))[2:] if "](#" not in cells[2]} == set()


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
        # With the settings of the group, because click keeps a command's help option for the next test.
        command.make_context(line, words, **projector.context_settings)


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
    listed = [key.strip("`") for key, *_ in rows(chapter("Redis keys", DEPLOY))[2:]]
    assert sorted(listed) == sorted(documented([*DOCUMENTING_MODULES, watchdog]))


def test_every_log_line_that_is_named_is_logged() -> None:
    code = source()
    logged = set(re.findall(r'log\.(?:info|warning|error)\(\s*"([a-z_.]+)"', code))
    named = {
        event for cells in rows(chapter("Logs", DEPLOY)) for event in re.findall(r"`([a-z_]+\.[a-z_]+)`", cells[0])
    }
    assert len(named) > 10
    assert named <= logged
    assert {"drain.failed", "drain.dead_lettered", "stream.lost_entries", "breaker.open", "startup.waiting"} <= named


def test_the_connections_in_the_table_are_what_the_pools_allow() -> None:
    writer, reader = engines.writer_engine(POSTGRESQL), engines.reader_engine(POSTGRESQL)
    reads = len(READS)
    assert len(ReadHandlers(PostgresqlDatabase(reader), 0).coalescers) == 1 + reads
    own_checks = engines.reader_engine(POSTGRESQL, pool_size=api.THREADS)
    command = most(writer) + most(reader)
    worker = command + most(engines.audit_engine(POSTGRESQL, 1.0))
    beside_reads = 1 + most(own_checks) + most(reader)  # keys, readiness, health and metrics
    sizes = chapter("Sizes and connections", DEPLOY)
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
        f"{worker} × workers + {command} × dispatchers + {per_api} × API processes + {command} for each command that may run"
        in text
    )
    parts = (8 * worker, 2 * command, 4 * (beside_reads + reads), 2 * command, 3)
    assert "8 workers, 2 dispatchers, 4 API processes with four reads and 2 commands are" in text
    assert f"are {' + '.join(map(str, parts))} = {sum(parts)};" in text


def most(engine: Engine) -> int:
    """Return how many connections a pool ever holds."""
    assert isinstance(engine.pool, QueuePool)
    assert engine.pool._max_overflow == 0
    return engine.pool.size()


def test_the_recommended_limits_of_a_role_are_those_of_a_session() -> None:
    shown_limits = dict(re.findall(r"SET (\w+) = '(\w+)';", DEPLOY))
    assert len(shown_limits) == 3
    assert shown_limits == {name: postgresql_engine.SESSION[name] for name in shown_limits}


@pytest.mark.parametrize(
    ("says", "number"),
    [
        ("whose projection was committed {} s ago", trimmer.TRIM_AFTER_S),
        ("and within {} s of its snapshot", trimmer.TRIM_AFTER_S),
        ("its checkpoint has not moved for more than {} s", progress.STALLED_AFTER_S),
        ("sent no heartbeat for more than {} s", progress.STALLED_AFTER_S),
        ("it is forgotten {} minutes later", dispatcher.HEARTBEAT_TTL_S / 60),
        ("It waits up to {} s between tries", batch_size.BACK_OFF_MAX_S),
        ("The partition tries again at the latest {} s later", batch_size.BACK_OFF_MAX_S),
        ("{} or more batches of a partition failed", FAILING_AFTER),
        ("saw in {} minutes fail", circuit_breaker.WINDOW_S / 60),
        ("tries the next event every {} s", circuit_breaker.PROBE_S),
        ("after failing alone {}", poison.FAILURES_ALONE_MAX),
        ("fail alone, {}", poison.FAILURES_ALONE_MAX),
        ("wait `PROJECTOR_KEY_CACHE_S` ({} s)", ApiSettings().key_cache_s),
        ("finishes the drain that it is in (about {} s)", drainer.BUDGET_S),
        ("answers for `PROJECTOR_SHUTDOWN_GRACE_S` ({} s)", ApiSettings().shutdown_grace_s),
        ("the requests that it has accepted ({} s at most)", listener.END_S + listener.LAST_REQUESTS_S),
        ("the database is away, slow ({} s)", QUERY_TIMEOUT_S),
        ("of at most {} entries", batch_size.ENTRIES_MAX),
        ("entries and {} MiB each", READ_BYTES_MAX / 2**20),
        ("adding up its events took more than {} s", verify_jobs.STATEMENT_TIMEOUT_S),
        ("is over {} KiB", BODY_BYTES_MAX / 1024),
        ("warns below {} GiB", Limits().disk_free_bytes / 2**30),
    ],
)
def test_a_number_on_a_page_equals_the_one_in_the_code(says: str, number: float) -> None:
    words = {2: "two", 3: "three", 5: "five"}
    text = " ".join(PAGE.split()).lower()
    shown_limits = [f"{number:,.0f}", words.get(int(number), ""), "twice" if number == 2 else ""]
    assert any(says.format(each).lower() in text for each in shown_limits if each), says


def test_the_memory_of_a_backlog_follows_from_the_defaults() -> None:
    settings = StreamSettings()
    (entry_bytes,) = map(int, re.findall(r"\((\d+) bytes for events of 350\)", PAGE))
    gigabytes = settings.partitions * settings.backlog_limit * entry_bytes / 1e9
    assert f"that is {gigabytes:.0f} GB" in " ".join(PAGE.split())


def test_the_flags_of_a_plain_rq_worker_name_our_classes() -> None:
    (block,) = [text for _, _, text in FENCED.findall(DEPLOY) if text.startswith("rq worker")]
    _, _, _, url, *flags, queue = shlex.split(block.replace("\\\n", ""))
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert (url, queue) == ("$REDIS_URL", QUEUE_NAME)
    classes = {"--job-class": DrainJob, "--worker-class": rq_worker.DrainWorker}
    assert given == {name: f"{each.__module__}.{each.__qualname__}" for name, each in classes.items()} | {
        "--serializer": "json",
        "--worker-ttl": str(rq_worker.WORKER_TTL_S),
    }


def test_every_error_that_is_named_exists() -> None:
    code = source()
    named = set(re.findall(r"`(\w+Error)`", PAGE)) - {"OperationalError"}  # of the database driver
    assert len(named) > 5
    assert {name for name in named if f"class {name}(" not in code} == set()
    codes = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)*)`", chapter("Reading", TROUBLESHOOTING))) - {"XADD"}
    statuses = set(re.findall(r"^\| (\d{3}) ", chapter("Reading", TROUBLESHOOTING), re.MULTILINE))
    assert statuses == {"400", "401", "403", "404", "503"}
    assert {name for name in codes if not re.search(rf'"{name}"', code)} == set()


def test_the_example_of_a_changed_event_works(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = {
        kind: [text for _, info, text in FENCED.findall(CHANGE) if info.strip() == kind]
        for kind in ("types", "upcaster", "test")
    }
    added: dict[str, Any] = {}
    namespace = {
        **vars(event_types),
        "TYPES": dict(event_types.TYPES),
        "UPCASTERS": added,
        "event": event,
        "body": body,
    }
    for text in blocks["types"] + blocks["upcaster"] + blocks["test"]:
        exec(compile(text, CHANGE_PAGE, "exec", dont_inherit=True), namespace)
    for type_ in ("repo.connected.v1", "repo.connected.v2"):
        monkeypatch.setitem(event_types.TYPES, type_, namespace["TYPES"][type_])
    monkeypatch.setattr(decoding, "_VALIDATOR", decoding.build_adapter().validator)
    for type_, upcaster in added.items():
        monkeypatch.setitem(upcasting.UPCASTERS, type_, upcaster)
    namespace |= {"decode": decoding.decode, "upcast": upcasting.upcast}
    namespace["test_an_old_connection_folds_like_a_new_one"]()
