"""The commands one by one: their output for people and machines, and their exit status."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import httpx
import pytest
from click.testing import CliRunner
from sqlalchemy import text, update

from api_stub.openapi import document
from cli.main import MODULES, projector
from event_stream.documents.asyncapi import asyncapi_document
from event_stream.documents.json_schema import events_schema
from projections import schema
from projections.database.engines import reader_engine, writer_engine
from projections.transaction import projection_version
from tests.support.commands import run_command
from tests.support.events import PROJECT, TENANT, body, event, mixed
from tests.support.harness import append, append_raw, checkpoints, drain_all, dump, stored_dead_letters, totals
from tests.support.invariants import assert_fully_projected
from tests.support.processes import Start
from tests.support.second_projection_version import OLD, line
from tests.support.servers import free_port, wait_until
from workers.runtime import Runtime

Run = Any


def paths(command: click.Command, *path: str) -> Iterator[list[str]]:
    """Yield the words of every subcommand, including groups."""
    for name, each in command.commands.items() if isinstance(command, click.Group) else ():
        yield [*path, name]
        yield from paths(each, *path, name)


COMMANDS = list(paths(projector))

# For commands whose way with either database is tested without the command.
on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


@pytest.fixture
def environ(redis_url: str, database_url: str, tmp_path: Path) -> dict[str, str]:
    return os.environ | {
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url.replace("+psycopg", ""),
        "PROJECTOR_PARTITIONS": "4",
        "PROJECTOR_DATA_DIR": str(tmp_path / "var"),
    }


@pytest.fixture
def run(environ: dict[str, str]) -> Run:
    def call(*arguments: str, expect: int = 0, **changed: str) -> str:
        done = run_command(environ | changed, *arguments)
        assert done.returncode == expect, done.stdout + done.stderr
        if expect:
            assert "Traceback" not in done.stderr
        return done.stdout + (done.stderr if expect else "")

    return call


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help(command: list[str]) -> None:
    done = run_command(dict(os.environ), *command, "--help")
    assert (done.returncode, done.stdout.partition(":")[0]) == (0, "Usage")


@pytest.mark.full
@pytest.mark.parametrize("module", sorted(set(MODULES.values())))
def test_every_command_imports_what_it_needs_and_a_worker_imports_nothing_else(module: str) -> None:
    code = f"import sys, {module}; print({{'uvicorn', 'starlette', 'alembic'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert module not in {"cli.commands.worker", "cli.commands.dispatcher"} or done.stdout == "set()\n"


def test_wrong_usage_ends_with_2(run: Run) -> None:
    run("nonsense", expect=2)
    assert "Did you mean 'status'?" in run("stat", expect=2)
    run("append", "/no/such/file", expect=2)
    assert "must be a whole number from 1 to 1024" in run("status", expect=2, PROJECTOR_PARTITIONS="0")
    assert "REDIS_URL: is not set" in run("worker", expect=2, REDIS_URL="")


def test_every_error_is_one_line(run: Run) -> None:
    for wrong in (["nonsense"], ["append"], ["keys", "create"], ["dead-letters", "discard"], ["status", "--nonsense"]):
        assert len(run(*wrong, expect=2).strip().splitlines()) == 1
    assert "Commands:" in run(expect=2)


def test_revoke_accepts_a_whole_key_and_never_shows_it(run: Run) -> None:
    made = run("keys", "create", "--tenant", TENANT).strip()
    assert made not in run("keys", "revoke", made)
    secret = made.rsplit("_", 1)[1]
    assert secret not in run("keys", "revoke", f"ss_org_{'0' * 16}_{secret}", expect=1)


def test_a_folder_without_a_database_is_reported_and_stays_empty(run: Run, tmp_path: Path) -> None:
    for command in (["keys", "list"], ["dead-letters", "list"], ["keys", "create", "--tenant", "t"]):
        shown = run(*command, expect=1, DATABASE_URL="", PROJECTOR_DATA_DIR=str(tmp_path / "empty"))
        assert "there is no database at" in shown
    assert not (tmp_path / "empty").exists()


def test_text_from_producers_is_shown_unchanged(runtime: Runtime, run: Run) -> None:
    append(runtime, event("analysis.created.v1", {"severity": "[/b][red]x"}))
    drain_all(runtime)
    (dead_letter,) = stored_dead_letters(runtime)
    assert "[/b][red]x" in run("dead-letters", "show", dead_letter.id)


def test_a_newer_schema_is_left_unchanged(run: Run, database_url: str) -> None:
    engine = writer_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE projector_schema_version SET version_num = '9999'"))
    engine.dispose()
    assert "schema is at revision 9999" in run("migrate")
    run("keys", "list")


@on_sqlite
@pytest.mark.parametrize("command", [["migrate"], ["worker"], ["dispatcher"], ["keys", "list"]], ids=" ".join)
def test_a_database_from_before_the_first_release_is_refused_in_one_sentence(
    run: Run, tmp_path: Path, command: list[str]
) -> None:
    url = f"sqlite:///{tmp_path}/before.db"
    engine = writer_engine(url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
    engine.dispose()
    (line,) = run(*command, expect=1, DATABASE_URL=url).splitlines()
    assert "set DATABASE_URL to a new database" in line


def test_a_port_in_use_is_named(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "set HOST, PORT" in run("api", expect=1, PORT=port)
        assert "set HOST, PORT" in run("api", expect=1, PORT=str(free_port()), OPS_PORT=port)


@pytest.mark.full
def test_health_names_the_mismatch(runtime: Runtime, start: Start) -> None:
    port = free_port()
    start("cli", "api", PORT=str(port), PROJECTOR_PARTITIONS="5")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: _status(f"{url}/readyz") == 200, "reads succeed")
    health = httpx.get(f"{url}/healthz/projector")
    assert (health.status_code, "set PROJECTOR_PARTITIONS=4" in health.json()["problems"][0]) == (503, True)


def test_append_reports_what_it_appended_even_if_the_backlog_is_full(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join([b"nonsense", *(body(event()) for _ in range(30))]))
    shown = run("append", str(file), "--timeout", "0.3", expect=1, PROJECTOR_BACKLOG_LIMIT="20")
    assert "line 1: not_json" in shown
    assert "appended 19, rejected 1" in shown
    assert "not yet projected" in shown


@on_sqlite
@pytest.mark.parametrize(
    "form", ["lines", "crlf", "bom", "array per line", "array", "array with bom", "indented array", "array, then lines"]
)
def test_append_accepts_lines_and_arrays(runtime: Runtime, run: Run, tmp_path: Path, form: str) -> None:
    made = [event("repo.connected.v1", {"repoId": f'"],[{{}} \\ {number}'}) for number in range(7)]
    lines, array = list(map(body, made)), json.dumps(made).encode()
    file = tmp_path / "events"
    file.write_bytes(
        {
            "lines": b"\n".join(lines),
            "crlf": b"\r\n".join([*lines[:3], b"", *lines[3:]]) + b"\r\n",
            "bom": b"\xef\xbb\xbf" + b"\n".join(lines),
            "array per line": b"\n".join(
                [lines[0], b"[" + b",".join(lines[1:4]) + b"]", b"[]", b"[%b]\r" % lines[4], *lines[5:]]
            ),
            "array": array,
            "array with bom": b"\xef\xbb\xbf" + array,
            "indented array": json.dumps(made, indent=2).encode().replace(b"\n", b"\r\n"),
            "array, then lines": b"\n" + json.dumps(made[:4], indent=1).encode() + b"\n" + b"\n".join(lines[4:]),
        }[form]
    )
    assert run("append", str(file)) == "appended 7, rejected 0\n"
    drain_all(runtime)
    assert_fully_projected(runtime, made)


@on_sqlite
def test_append_names_the_line_of_each_invalid_event_of_an_array(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events"
    bad = b'{"a": 1}'
    valid = body(event())
    file.write_bytes(b"[\n" + valid + b",\n" + bad + b", " + valid + b"\n]\n" + valid + b"\n[" + valid + b",\n" + valid)
    shown = run("append", str(file), expect=1)
    assert re.findall(r"^line (\d+): (\w+)", shown, re.MULTILINE) == [("3", "not_an_event"), ("6", "not_json")]
    assert "appended 4, rejected 2" in shown
    file.write_bytes(b"[\n" + valid + b",\n" + valid)  # cut off
    assert "line 1: not_json" in run("append", str(file), expect=1)


@on_sqlite
@pytest.mark.parametrize(
    ("encoding", "name"), [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-32-be", "UTF-32BE")]
)
def test_append_names_input_that_is_not_utf_8(run: Run, tmp_path: Path, encoding: str, name: str) -> None:
    file = tmp_path / "events"
    file.write_bytes(body(event()).decode().encode(encoding))
    assert f"the input is {name}, not UTF-8; convert it" in run("append", str(file), expect=1)


def test_an_unreachable_server_is_reported_in_one_line(run: Run) -> None:
    shown = run("status", expect=1, REDIS_URL="redis://:hidden@127.0.0.1:1/0")
    assert len(shown.strip().splitlines()) == 1
    assert "hidden" not in shown
    shown = run("keys", "list", expect=1, DATABASE_URL="postgresql://u:hidden@127.0.0.1:1/none")
    assert len(shown.strip().splitlines()) == 1
    assert "hidden" not in shown


def test_another_number_of_partitions_is_refused(runtime: Runtime, run: Run) -> None:
    for command in ("migrate", "worker", "dispatcher", "status"):
        assert "set PROJECTOR_PARTITIONS=4" in run(command, expect=1, PROJECTOR_PARTITIONS="5")


def test_keys_are_made_listed_and_revoked(run: Run) -> None:
    made = run("keys", "create", "--tenant", TENANT, "--project", PROJECT).strip()
    assert re.fullmatch(r"ss_secret_[0-9a-f]{16}_[A-Za-z0-9]{43}", made)
    upper = json.loads(run("keys", "create", "--tenant", "acme.eu:1", "--project", PROJECT.upper(), "--json"))
    assert (upper["tenant"], upper["project"]) == ("acme.eu:1", PROJECT)
    org = json.loads(run("keys", "create", "--tenant", TENANT, "--expires", "2030-01-31T00:00:00Z", "--json"))
    assert org["key"].startswith("ss_org_")
    assert org["expires"] == "2030-01-31T00:00:00Z"
    public = json.loads(
        run(
            "keys",
            "create",
            "--tenant",
            "t",
            "--public",
            "--permission",
            "config:write",
            "--permission",
            "analysis:read",
            "--json",
        )
    )
    assert public["key"].startswith("ss_pub_")
    assert public["permissions"] == ["analysis:read", "config:write"]
    listed = run("keys", "list")
    assert made.rsplit("_", 1)[1] not in listed + run("keys", "list", "--json")
    assert [key["kind"] for key in json.loads(run("keys", "list", "--json"))] == ["secret", "secret", "org", "pub"]
    run("keys", "revoke", org["keyId"])
    run("keys", "revoke", org["keyId"])
    assert [key["revoked"] is not None for key in json.loads(run("keys", "list", "--json"))] == [
        False,
        False,
        True,
        False,
    ]
    assert "no key has this id" in run("keys", "revoke", "nonsense", expect=1)
    for wrong in (["--tenant", "a b"], ["--tenant", "t", "--project", "x"], ["--tenant", "t", "--expires", "soon"], []):
        run("keys", "create", *wrong, expect=2)


def test_only_a_hash_of_a_key_is_stored(run: Run, database_url: str) -> None:
    secret = run("keys", "create", "--tenant", TENANT).strip().rsplit("_", 1)[1]
    engine = reader_engine(database_url)
    with engine.connect() as connection:
        stored = str(connection.execute(text("SELECT * FROM api_key")).all())
    engine.dispose()
    assert secret not in stored


def test_status_is_a_table_for_people_and_json_for_machines(runtime: Runtime, run: Run) -> None:
    append(runtime, event(), event())
    append_raw(runtime, 0, b"nonsense")
    drain_all(runtime)
    shown = run("status")
    assert "in flight" in shown
    assert "not_json" in shown
    assert "\x1b" not in shown
    assert "problem: no worker is alive" in shown
    found = json.loads(run("status", "--json"))
    assert sum(partition["applied"] for partition in found["partitions"]) == 2
    assert found["open_dead_letters"] == {"not_json": 1}
    run("status", "--json", "--watch", expect=2)


def test_dead_letters_are_listed_by_reason_and_tenant_and_shown(runtime: Runtime, run: Run) -> None:
    append_raw(runtime, 0, b"nonsense", b"\xff\x00")
    append(runtime, event() | {"type": "unknown.v1"})
    drain_all(runtime)
    listed = json.loads(run("dead-letters", "list", "--json"))
    assert sorted(dead_letter["reason"] for dead_letter in listed) == ["not_json", "not_json", "unknown_type"]
    (mine,) = json.loads(run("dead-letters", "list", "--tenant", TENANT, "--json"))
    assert (mine["reason"], mine["timesSeen"], mine["state"]) == ("unknown_type", 1, "open")
    assert len(json.loads(run("dead-letters", "list", "--reason", "not_json", "--limit", "1", "--json"))) == 1
    shown = json.loads(run("dead-letters", "show", mine["id"], "--json"))
    assert {name: shown[name] for name in mine} == mine
    assert "unknown.v1" in run("dead-letters", "show", mine["id"][:12])
    run("dead-letters", "list", "--reason", "nonsense", expect=2)


def test_a_replayed_dead_letter_closes_in_the_transaction_that_applies_its_event(runtime: Runtime, run: Run) -> None:
    owner = append(runtime, event())[0].partition
    made = event()
    append_raw(runtime, (owner + 1) % 4, body(made))
    append_raw(runtime, owner, b"nonsense", body(event(pad="x" * 70_000)))
    drain_all(runtime)
    position = str(checkpoints(runtime)[(owner + 1) % 4].position)
    assert "cannot be replayed" in run("dead-letters", "replay", "--all", "--yes", expect=1)
    assert str(checkpoints(runtime)[(owner + 1) % 4].position) == position
    drain_all(runtime)
    found = {
        dead_letter.reason: (dead_letter.state, dead_letter.times_seen) for dead_letter in stored_dead_letters(runtime)
    }
    assert found == {"wrong_partition": ("applied", 1), "not_json": ("open", 2), "too_large": ("open", 1)}
    assert totals(runtime)["applied"] == 2
    assert json.loads(run("dead-letters", "replay", "--reason", "not_json", "--json")) == {"appended": 1, "tooLarge": 0}
    drain_all(runtime)
    assert run("dead-letters", "replay", "--reason", "wrong_partition") == "appended 0 again\n"
    assert totals(runtime) == {"read": 7, "applied": 2, "duplicates": 0, "dead_lettered": 5, "lost": 0}


def test_dead_letters_are_replayed_and_discarded_by_id_reason_tenant_or_all(runtime: Runtime, run: Run) -> None:
    append(runtime, *(event() | {"type": f"unknown.v{number}"} for number in range(1100)))
    append(runtime, event("watchdog.toggled.v1", {"enabled": 1}, tenantid="ten_other"))
    drain_all(runtime)
    first = stored_dead_letters(runtime)[0]
    assert run("dead-letters", "discard", first.id[:16]) == "discarded 1\n"
    assert run("dead-letters", "discard", "--tenant", "ten_other") == "discarded 1\n"
    assert run("dead-letters", "replay", "--all", "--yes") == "appended 1,099 again\n"
    drain_all(runtime)
    assert json.loads(run("dead-letters", "discard", "--all", "--yes", "--json")) == {"discarded": 1099, "notKept": 0}
    assert json.loads(run("status", "--json"))["open_dead_letters"] == {}
    assert first.body is not None
    append_raw(runtime, first.partition, first.body)
    drain_all(runtime)
    assert json.loads(run("status", "--json"))["open_dead_letters"] == {"unknown_type": 1}
    for wrong in ([], ["--all", "--tenant", "x"], ["--reason", "nonsense"]):
        run("dead-letters", "replay", *wrong, expect=2)
        run("dead-letters", "discard", *wrong, expect=2)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_an_empty_argument_is_wrong_usage_for_every_command(command: list[str]) -> None:
    target: click.Command = projector
    for name in command:
        assert isinstance(target, click.Group)
        target = target.commands[name]
    options = [each for each in target.params if isinstance(each, click.Option) and not each.is_flag]
    wrong = [[""], ["", "x"], ["x", ""]]
    wrong += [words for each in options for words in ([each.opts[0], ""], [f"{each.opts[0]}="])]
    for arguments in wrong:
        # Without a server: the command line is refused before anything else happens.
        done = CliRunner(env={"REDIS_URL": "", "DATABASE_URL": ""}).invoke(projector, [*command, *arguments])
        assert done.exit_code == 2
        assert "is empty" in done.output


def test_an_unset_shell_variable_discards_and_replays_nothing(runtime: Runtime, run: Run) -> None:
    append_raw(runtime, 0, b"first", b"second")
    drain_all(runtime)
    first, second = stored_dead_letters(runtime)
    for action in ("discard", "replay", "show"):
        assert "the argument after" in run("dead-letters", action, "", expect=2)
    for action in ("discard", "replay"):
        for arguments in ([first.id, ""], ["", first.id], ["--tenant", ""], ["--tenant="], ["--reason", ""]):
            run("dead-letters", action, *arguments, expect=2)
    assert [each.state for each in stored_dead_letters(runtime)] == ["open", "open"]
    assert totals(runtime)["read"] == 2
    assert run("dead-letters", "discard", first.id.upper(), second.id[:12]) == "discarded 2\n"


def test_an_id_identifies_one_dead_letter_or_the_command_is_refused(runtime: Runtime, run: Run) -> None:
    append_raw(runtime, 0, *(b"nonsense %d" % number for number in range(17)))
    drain_all(runtime)
    ids = sorted(dead_letter.id for dead_letter in stored_dead_letters(runtime))
    shared = next(one[0] for one, other in pairwise(ids) if one[0] == other[0])  # 17 ids begin with 16 digits at most
    unknown = "0" * 64
    for action in ("discard", "replay", "show"):
        assert "add digits" in run("dead-letters", action, shared, expect=2)
        for no_id in ("nonsense", "%", "_", "0x1", " ", ids[0] + "0"):
            assert "is not the id of a dead letter" in run("dead-letters", action, no_id, expect=2)
        assert "no dead letter has" in run("dead-letters", action, unknown, expect=1)
    for action in ("discard", "replay"):
        run("dead-letters", action, ids[0], shared, expect=2)
        run("dead-letters", action, ids[0], unknown, expect=1)
    assert {each.state for each in stored_dead_letters(runtime)} == {"open"}
    assert run("dead-letters", "discard", ids[0]) == "discarded 1\n"
    assert run("dead-letters", "discard", ids[0]) == "discarded 0\n"  # so that the command can be repeated


def test_all_dead_letters_are_discarded_or_replayed_only_after_a_confirmation(
    runtime: Runtime, run: Run, environ: dict[str, str]
) -> None:
    append_raw(runtime, 0, b"first", b"second")
    drain_all(runtime)

    def answer(text: bytes, action: str) -> tuple[int, str]:
        ours, terminal = os.openpty()
        os.write(ours, text)
        command = [sys.executable, "-m", "cli", "dead-letters", action, "--all"]
        done = subprocess.run(command, env=environ, stdin=terminal, capture_output=True, text=True, check=False)
        os.close(ours)
        os.close(terminal)
        assert f"{action} all 2 open dead letters?" in done.stderr
        return done.returncode, done.stdout

    for action in ("discard", "replay"):
        assert "--all needs --yes" in run("dead-letters", action, "--all", expect=2)
        assert answer(b"n\n", action) == (130, "")
    assert {each.state for each in stored_dead_letters(runtime)} == {"open"}
    assert answer(b"y\n", "replay") == (0, "appended 2 again\n")
    assert answer(b"y\n", "discard") == (0, "discarded 2\n")


def test_the_documents_are_printed(run: Run) -> None:
    assert json.loads(run("contract", "openapi")) == document()
    assert json.loads(run("contract", "asyncapi")) == asyncapi_document()
    assert json.loads(run("contract", "events")) == events_schema()


def test_migrate_prints_the_revision_of_the_schema(run: Run) -> None:
    assert run("migrate") == f"schema is at revision {schema.REVISION}, 4 partitions\n"


def test_the_procfiles_processes_work_together_and_end_on_sigterm(runtime: Runtime, start: Start) -> None:
    port, ops_port = free_port(), free_port()
    running = [
        start("cli", "api", PORT=str(port), OPS_PORT=str(ops_port)),
        start("cli", "dispatcher"),
        start("cli", "worker"),
    ]
    (appended,) = append(runtime, event("project.created.v1"))
    wait_until(
        lambda: runtime.stream.projected([appended.partition])[appended.partition].position == appended.position,
        "the event is projected",
    )
    wait_until(lambda: _status(f"http://127.0.0.1:{ops_port}/healthz/projector") == 200, "everything is healthy")
    assert _status(f"http://127.0.0.1:{ops_port}/metrics") == 200
    assert _status(f"http://127.0.0.1:{port}/metrics") == 404
    assert _status(f"http://127.0.0.1:{port}/healthz") == 404
    assert _status(f"http://127.0.0.1:{port}/v1/config/monitoring/activity") == 401
    assert _status(f"http://127.0.0.1:{ops_port}/v1/config/monitoring/activity") == 404
    for process in running:
        process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    assert [process.wait(10) for process in running] == [0, 0, 0]
    assert time.monotonic() - started < 6


@pytest.mark.full
def test_a_worker_busy_with_a_backlog_ends_within_five_seconds(runtime: Runtime, start: Start) -> None:
    """It ends before the backlog is drained, after the batch that it is applying."""
    made = [body(event()) for _ in range(200)]
    owner = append(runtime, event())[0].partition
    for _ in range(500):
        append_raw(runtime, owner, *made)  # 200 events, repeated: a backlog of 100,000 entries
    start("cli", "dispatcher")
    worker = start(
        "tests.support.override_constants", "worker", json.dumps({"workers.drain.batch_size.ENTRIES_MAX": 100})
    )
    wait_until(lambda: runtime.stream.projected([owner])[owner].entries > 1000, "the session is busy")
    started = time.monotonic()
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    assert time.monotonic() - started < 5
    assert runtime.stream.projected([owner])[owner].entries < 100_001


def _status(url: str) -> int:
    try:
        return httpx.get(url).status_code
    except httpx.TransportError:
        return 0


@pytest.fixture
def damaged(runtime: Runtime) -> dict[str, Any]:
    """Three tenants, each with a wrong count and a missing or extra row; returns the correct rows."""
    append(runtime, *mixed(300, tenants=3, projects=2, seed=2))
    drain_all(runtime)
    truth = dump(runtime.reader)
    with runtime.writer.begin() as connection:
        connection.execute(text("UPDATE analysis_trend SET total = total + 1"))
        connection.execute(text("DELETE FROM tenant WHERE tenant_id = 'ten_0'"))
        connection.execute(text("INSERT INTO tenant VALUES ('ten_unheard_of', 1, '{}', NULL, -1, '', 0, 0)"))
    return truth


def test_rebuild_repairs_rows_that_differ_and_reports_them(runtime: Runtime, run: Run, damaged: dict[str, Any]) -> None:
    reported = json.loads(run("rebuild", "--json"))
    assert dump(runtime.reader) == damaged
    assert (reported["tenants"], reported["events"], reported["failed"], reported["pendingTenants"]) == (4, 300, [], 0)
    assert reported["readModels"]["tenant"] == {"missing": 1, "extra": 1, "changed": 0}
    assert reported["readModels"]["analysis_trend"] == {"missing": 0, "extra": 0, "changed": 6}
    assert 0 < reported["lockHeldMs"]["median"] <= reported["lockHeldMs"]["max"]
    shown = run("rebuild")
    assert "rebuilt 3 tenants, 300 events" in shown
    assert "\x1b" not in shown


def test_a_dry_run_of_rebuild_shows_the_changes_and_changes_nothing(
    runtime: Runtime, run: Run, damaged: dict[str, Any]
) -> None:
    before = dump(runtime.reader)
    assert before != damaged
    shown = run("rebuild", "--dry-run")
    assert "changed: analysis_trend ten_0" in shown
    assert "extra: tenant ten_unheard_of" in shown
    (sample,) = [
        each
        for each in json.loads(run("rebuild", "--dry-run", "--json", "--tenant", "ten_0"))["samples"]
        if each["kind"] == "missing"
    ]
    assert sample == {"readModel": "tenant", "key": ["ten_0"], "kind": "missing"}
    assert dump(runtime.reader) == before


def test_rebuild_accepts_one_read_model_and_one_tenant_and_lists_the_known_ones(
    runtime: Runtime, run: Run, damaged: dict[str, Any]
) -> None:
    assert json.loads(run("rebuild", "--tenant", "ten_1", "--projection", "analysis_trend", "--json"))["tenants"] == 1
    wrong = [row for row in dump(runtime.reader)["analysis_trend"] if row not in damaged["analysis_trend"]]
    assert {row[0] for row in wrong} == {"ten_0", "ten_2"}
    assert "tenants: ten_0, ten_1, ten_2" in run("rebuild", "--tenant", "nobody", expect=2)
    assert "'analysis_trend'" in run("rebuild", "--projection", "nothing", expect=2)


def test_rebuild_ends_with_1_and_names_the_event_that_it_cannot_read(
    runtime: Runtime, run: Run, damaged: dict[str, Any]
) -> None:
    with runtime.writer.begin() as connection:
        id_ = connection.scalar(text("SELECT event_id FROM event_log WHERE tenant_id = 'ten_1' LIMIT 1"))
        connection.execute(text("UPDATE event_log SET body = :body WHERE event_id = :id"), {"body": b"{}", "id": id_})
    shown = run("rebuild", expect=1)
    assert f"event {id_} of tenant ten_1 cannot be decoded any more" in shown
    assert "tenants left to rebuild: 1" in shown
    assert "continuing the rebuild that was requested" in run("rebuild", expect=1)
    assert "compared 2 tenants" in run("rebuild", "--dry-run", expect=1)
    assert "rebuilt 2 tenants" in run("rebuild", "--restart", expect=1)


@on_sqlite
def test_verify_lists_differing_rows_and_ends_with_1(runtime: Runtime, run: Run, damaged: dict[str, Any]) -> None:
    before = dump(runtime.reader)
    shown = run("verify", expect=1)
    assert "changed: analysis_trend ten_0" in shown
    assert "checksum differs: tenant ten_unheard_of: 0 events in the row, none in the log" in shown
    assert "tenants that differ: 4" in shown
    quick = json.loads(run("verify", "--quick", "--json", expect=1).partition("projector:")[0])
    assert (quick["tenants"], quick["tenantsFolded"], quick["mismatchedTenants"]) == (4, 0, ["ten_0", "ten_unheard_of"])
    assert {"readModel", "key", "rowEvents", "logEvents"} == set(quick["checksumMismatches"][0])
    assert dump(runtime.reader) == before
    assert dump(runtime.reader) != damaged


@on_sqlite
def test_verify_repairs_some_rows_and_reports_the_others(
    runtime: Runtime, run: Run, damaged: dict[str, Any], redis_url: str
) -> None:
    run("verify", "--tenant", "ten_1", expect=1)
    assert "3 rows" not in str(json.loads(run("status", "--json"))["problems"])
    assert "2 rows of 1 tenant differ from the event log" in str(json.loads(run("status", "--json"))["problems"])
    repaired = json.loads(run("verify", "--repair", "--json"))
    assert repaired["mismatchedTenants"] == repaired["repairedTenants"] == ["ten_0", "ten_1", "ten_2", "ten_unheard_of"]
    assert dump(runtime.reader) == damaged
    assert "differ from the event log" not in str(json.loads(run("status", "--json"))["problems"])
    assert "no difference" in run("verify")
    assert "repaired" not in run("verify")


@on_sqlite
def test_verify_accepts_a_sample_one_read_model_or_one_tenant(run: Run, damaged: dict[str, Any]) -> None:
    assert damaged
    reported = json.loads(run("verify", "--sample", "2", "--json", "--projection", "activity"))
    assert (reported["tenants"], reported["tenantsFolded"], reported["mismatchedTenants"]) == (3, 2, [])
    assert json.loads(run("verify", "--tenant", "ten_1", "--projection", "project", "--json"))["tenants"] == 1
    assert "tenants: ten_0, ten_1, ten_2" in run("verify", "--tenant", "nobody", expect=2)
    assert "choose one" in run("verify", "--quick", "--sample", "1", expect=2)


@on_sqlite
def test_verify_needs_no_redis(run: Run, damaged: dict[str, Any]) -> None:
    assert damaged
    assert "tenants that differ: 4" in run("verify", expect=1, REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")


@on_sqlite
def test_migrate_rebuilds_the_rows_of_another_release(runtime: Runtime, run: Run, damaged: dict[str, Any]) -> None:
    verified = run("verify", "--repair")
    assert "pending" not in verified
    set_versions(runtime, line(analysis_trend="1 incomplete"), "ten_0")
    set_versions(runtime, line(each for each in OLD if each.name != "analysis_trend"), "ten_1")
    problem = "a rebuild is pending: analysis_trend to version 1 for 2 tenants; run `projector migrate --rebuild`"
    assert json.loads(run("status", "--json"))["problems"].count(problem) == 1
    assert "with a pending rebuild, whose rows were not compared: 2" in run("verify", expect=1)
    assert run("migrate").endswith("4 partitions\n")
    assert json.loads(run("verify", "--quick", "--json", expect=1))["rebuildPendingTenants"] == ["ten_0", "ten_1"]
    reported = json.loads(run("migrate", "--rebuild", "--json"))
    assert (reported["tenants"], reported["failed"], reported["pendingTenants"]) == (2, [], 0)
    assert "rebuilt 0 tenants" in run("migrate", "--rebuild")
    assert "no difference" in run("verify")
    assert dump(runtime.reader) == damaged
    assert "add --rebuild" in run("migrate", "--json", expect=2)


@on_sqlite
def test_going_back_to_an_older_release_requires_a_flag(runtime: Runtime, run: Run, damaged: dict[str, Any]) -> None:
    newer = line(analysis_trend="2")
    set_versions(runtime, newer, "ten_0")
    refused = run("rebuild", "--tenant", "ten_0", expect=1)
    assert "analysis_trend is at version 2, and this release has version 1" in refused
    assert "tenant ten_0 was not changed" in refused
    assert "run the newer release" in run("worker", expect=1)
    assert "applies to all read models" in run("rebuild", "--downgrade", "--tenant", "ten_0", expect=2)
    run("rebuild", "--downgrade", "--restart")
    assert dump(runtime.reader) == damaged
    assert newer not in str(dump(runtime.reader, [projection_version.table]))


def set_versions(runtime: Runtime, line: str, tenant_id: str) -> None:
    with runtime.writer.begin() as connection:
        mine = projection_version.table.c.tenant_id == tenant_id
        assert connection.execute(update(projection_version.table).where(mine).values(versions=line)).rowcount == 1
