"""The drain on both databases: each event counts once, bad entries stop no others, and losses are counted."""

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from event_stream.errors import Reason
from event_stream.events.decoding import Arrival, decode_batch
from event_stream.events.event import Event, partition_of
from event_stream.events.event_types import WatchdogToggled
from event_stream.events.json_equality import equal_json
from event_stream.events.rfc3339 import format_time
from event_stream.streams.entries import Entry, Position, StreamEnd, StreamSlice
from event_stream.streams.stream import Stream
from projections.database.engines import writer_engine
from projections.database.table_names import qualified
from projections.folding.projection import FoldError, project_key
from projections.lifecycle.dead_letter_admin import Selection, iter_pages
from projections.read_models import project
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint_table, dead_letter_counts, dead_letters, event_log
from projections.transaction.apply import apply
from projections.transaction.checkpoint import Checkpoint
from projections.transaction.checkpoint_table import StaleClaimError
from tests.support.events import INPUTS, NOW_US, PROJECT, TENANT, body, event, mixed, spelled_freely
from tests.support.harness import (
    READ_MODELS,
    append,
    append_raw,
    checkpoints,
    drain_all,
    dump,
    log_size,
    projections_with,
    stored_dead_letters,
    totals,
    with_projections,
)
from tests.support.invariants import assert_fully_projected, assert_reads_equal
from tests.support.oracle import event_key
from tests.support.rebuilds import differing, rebuild_all
from tests.support.servers import wait_until
from workers.dispatch.trimmer import TRIM_AFTER_S, Trimmer
from workers.drain import batch_size, circuit_breaker, drainer, entry_decoding
from workers.drain.batch_size import BatchSize
from workers.drain.circuit_breaker import CircuitBreaker
from workers.drain.drainer import Drainer, run
from workers.drain.poison import PoisonSuspect
from workers.jobs.lease import Lease
from workers.maintenance.replay import replay
from workers.reporting import problems
from workers.reporting.status_reader import read_status
from workers.runtime import Runtime

pytestmark = pytest.mark.both_databases

TENANT_PARTITION = partition_of(TENANT, 4)
NOW_MS = NOW_US // 1000


def open_reasons(runtime: Runtime) -> list[str]:
    return [dead_letter.reason for dead_letter in stored_dead_letters(runtime) if dead_letter.state == "open"]


def test_events_are_logged_folded_and_counted_once(runtime: Runtime) -> None:
    append(runtime, event("project.created.v1"), event(), event())
    drain_all(runtime)
    assert totals(runtime) == {"read": 3, "applied": 3, "duplicates": 0, "dead_lettered": 0, "lost": 0}
    assert log_size(runtime.reader) == 3
    assert dump(runtime.reader)["analysis_trend"][0][2] == 2


def test_the_log_is_numbered_without_gaps_in_each_partition(runtime: Runtime) -> None:
    append(runtime, *mixed(300))
    drain_all(runtime)
    append(runtime, *mixed(300), *mixed(300, seed=2))  # duplicates get no number
    drain_all(runtime)
    numbers: dict[int, list[int]] = {}
    for row in dump(runtime.reader, [event_log.table])["event_log"]:
        numbers.setdefault(row[2], []).append(row[3])
    assert numbers
    for found in numbers.values():
        assert sorted(found) == list(range(1, len(found) + 1))


def test_a_repeat_of_an_applied_event_changes_nothing(runtime: Runtime) -> None:
    made = list(mixed(200))
    append(runtime, *made)
    drain_all(runtime)
    before = dump(runtime.reader)
    append(runtime, *reversed(made), *made)
    drain_all(runtime)
    assert dump(runtime.reader) == before
    assert totals(runtime) == {"read": 600, "applied": 200, "duplicates": 400, "dead_lettered": 0, "lost": 0}


def test_a_repeat_within_a_batch_and_in_another_spelling_is_a_duplicate(runtime: Runtime) -> None:
    made = event()
    append_raw(runtime, TENANT_PARTITION, body(made), body(dict(reversed(made.items()))), b" " + body(made))
    assert Drainer(
        runtime, TENANT_PARTITION, batch_size=BatchSize(count=16)
    ).step()  # detected before the log's primary key would split the batch
    assert totals(runtime) == {"read": 3, "applied": 1, "duplicates": 2, "dead_lettered": 0, "lost": 0}


@pytest.mark.parametrize("apart", [True, False])
def test_the_same_identity_with_other_content_is_parked_and_the_first_wins(runtime: Runtime, apart: bool) -> None:
    first = event("project.created.v1", {"name": "first"})
    append(runtime, first)
    if apart:
        drain_all(runtime)
    append(runtime, first | {"data": first["data"] | {"name": "second"}}, first | {"extra": True})
    drain_all(runtime)
    assert totals(runtime) == {"read": 3, "applied": 1, "duplicates": 0, "dead_lettered": 2, "lost": 0}
    assert open_reasons(runtime) == ["id_conflict", "id_conflict"]
    assert dump(runtime.reader)["project"][0][8] == "first"
    assert first["id"] in stored_dead_letters(runtime)[0].detail


@pytest.mark.parametrize("seen_again", [False, True])
def test_replay_appends_in_the_order_of_positions_so_that_the_first_of_an_identity_wins(
    runtime: Runtime, seen_again: bool
) -> None:
    firsts = [event("project.created.v1", {"name": "first"}, projectid=str(uuid4())) for _ in range(300)]
    seconds = [first | {"data": first["data"] | {"name": "second"}} for first in firsts]
    wrong = (TENANT_PARTITION + 1) % 4
    append_raw(runtime, wrong, *map(body, firsts + seconds))  # 600 are more than one page
    if seen_again:
        append_raw(runtime, wrong, *map(body, reversed(firsts)))
    drain_all(runtime)
    assert replay(runtime, Selection()).appended == 600
    drain_all(runtime)
    assert {row[8] for row in dump(runtime.reader)["project"]} == {"first"}
    assert Counter((each.reason, each.state) for each in stored_dead_letters(runtime)) == {
        ("wrong_partition", "applied"): 300,
        ("wrong_partition", "replaced"): 300,
        ("id_conflict", "open"): 300,
    }


def test_replay_ends_although_its_entries_fail_again_meanwhile(runtime: Runtime) -> None:
    append(runtime, *(event() | {"type": f"unknown.v{number}"} for number in range(1_100)))
    append_raw(runtime, 3, b"nonsense")
    runtime.stream.redis.xadd("events:{3}", {"event": b"far ahead"}, id=f"{2**64 - 2}-7")
    drain_all(runtime)
    assert replay(runtime, Selection(), lambda _: drain_all(runtime)).appended == 1_102
    assert {each.times_seen for each in stored_dead_letters(runtime) if each.event_id} == {2}


def test_bytes_that_fail_for_another_reason_are_one_open_dead_letter(runtime: Runtime) -> None:
    accepted = event()
    other = accepted | {"source": "/other"}
    invalid = event("watchdog.toggled.v1", {"enabled": 1})
    wrong = (TENANT_PARTITION + 1) % 4
    append_raw(runtime, wrong, body(other), body(invalid))
    append(runtime, accepted)
    drain_all(runtime)
    assert replay(runtime, Selection()).appended == 2
    drain_all(runtime)
    expected = [
        ("id_conflict", "open"),
        ("invalid_data", "open"),
        ("wrong_partition", "replaced"),
        ("wrong_partition", "replaced"),
    ]
    assert sorted((each.reason, each.state) for each in stored_dead_letters(runtime)) == expected
    append_raw(runtime, wrong, body(other))  # opens its dead letter again, and says nothing about the conflict
    drain_all(runtime)
    assert sorted(open_reasons(runtime)) == ["id_conflict", "invalid_data", "wrong_partition"]


@pytest.mark.parametrize(("bad", "repeats"), [({}, 1), ({"type": "analysis.created.v2"}, 0)])
def test_the_cost_of_a_dead_letter_does_not_grow_with_their_number_for_one_identity(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, bad: dict[str, Any], repeats: int
) -> None:
    """Like a producer that gives all its events the same id."""
    first = event()
    append(runtime, first, *(first | {"source": f"/{number}"} | bad for number in range(50)))
    drain_all(runtime)
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(one)
        return equal_json(one, other)

    monkeypatch.setattr("projections.transaction.dead_letters.equal_json", compare)
    append(runtime, first | {"source": "/last"} | bad, *[first] * repeats)
    drain_all(runtime)
    assert compared == []
    counted = totals(runtime)
    assert (counted["applied"], counted["duplicates"], counted["dead_lettered"]) == (1, repeats, 51)
    assert {dead_letter.state for dead_letter in stored_dead_letters(runtime)} == {"open"}


def test_the_same_id_of_another_tenant_is_another_event(runtime: Runtime) -> None:
    made = event()
    append(runtime, made, made | {"tenantid": "ten_other"})
    drain_all(runtime)
    assert totals(runtime)["applied"] == 2


def bad_entries() -> dict[Reason, bytes]:
    """Return one bad entry of each reason that can be appended to TENANT's partition."""
    elsewhere = next(f"t{n}" for n in range(99) if partition_of(f"t{n}", 4) != TENANT_PARTITION)
    return {
        Reason.TOO_LARGE: body(event(pad="x" * 70_000)),
        Reason.NOT_JSON: b'{"id": NaN}',
        Reason.NOT_AN_EVENT: body(event(source="")),
        Reason.WRONG_PARTITION: body(event(tenantid=elsewhere)),
        Reason.UNKNOWN_TYPE: body(event() | {"type": "analysis.created.v9"}),
        Reason.INVALID_DATA: body(event("watchdog.toggled.v1", {"enabled": "yes"})),
        Reason.TIME_IN_FUTURE: body(event(time=format_time(NOW_US + 86_400_000_000))),
    }


def sized(length: int) -> bytes:
    """Return a valid event of exactly that many bytes."""
    made = event(pad="")
    return body(made | {"pad": "x" * (length - len(body(made)))})


def with_extra(json: bytes) -> bytes:
    """Return a valid event with an extra member given as JSON text."""
    return body(event(pad="here")).replace(b'"here"', json)


MONSTERS: dict[str, tuple[Callable[[], bytes], Reason | None]] = {
    "the largest there may be": (lambda: sized(65_536), None),
    "one byte more": (lambda: sized(65_537), Reason.TOO_LARGE),
    "1 MB": (lambda: sized(1_000_000), Reason.TOO_LARGE),
    "50 MB": (lambda: sized(50_000_000), Reason.TOO_LARGE),
    "50 MB of nothing": (lambda: b"\0" * 50_000_000, Reason.TOO_LARGE),
    "invalid UTF-8": (lambda: with_extra(b'"\xff\xfe"'), Reason.NOT_JSON),
    "UTF-8 of a surrogate": (lambda: with_extra(b'"\xed\xa0\x80"'), Reason.NOT_JSON),
    "a lone surrogate": (lambda: with_extra(b'"\\ud800"'), Reason.NOT_JSON),
    "a pair of them": (lambda: with_extra(b'"\\ud83d\\ude00"'), None),
    "U+0000": (lambda: with_extra(b'"\\u0000"'), Reason.NOT_JSON),
    "U+0000 in a name": (lambda: with_extra(b'{"\\u0000": 1}'), Reason.NOT_JSON),
    "a zero byte": (lambda: with_extra(b'"\0"'), Reason.NOT_JSON),
    "NaN": (lambda: with_extra(b"NaN"), Reason.NOT_JSON),
    "-Infinity": (lambda: with_extra(b"-Infinity"), Reason.NOT_JSON),
    "an integer of 4,300 digits": (lambda: with_extra(b"9" * 4_300), None),
    "an integer of 60,000 digits": (lambda: with_extra(b"9" * 60_000), Reason.NOT_JSON),
    "a number beyond a double": (lambda: with_extra(b"1e999"), None),
    "30,000 nested brackets": (lambda: with_extra(b"[" * 30_000 + b"]" * 30_000), Reason.NOT_JSON),
    "30,000 brackets never closed": (lambda: b"[" * 30_000, Reason.NOT_JSON),
    "10,000 nested objects": (lambda: with_extra(b'{"":' * 10_000 + b"0" + b"}" * 10_000), Reason.NOT_JSON),
}


def test_extreme_events_get_the_same_result_on_both_databases_and_other_events_are_applied(runtime: Runtime) -> None:
    for make, _ in MONSTERS.values():
        append_raw(runtime, TENANT_PARTITION, make(), body(event()))
    drain_all(runtime)
    expected = [reason for _, reason in MONSTERS.values() if reason is not None]
    assert open_reasons(runtime) == expected
    applied = 2 * len(MONSTERS) - len(expected)
    assert totals(runtime)["applied"] == applied
    assert dump(runtime.reader)["analysis_trend"][0][2] == applied
    lengths = [len(make()) for make, reason in MONSTERS.values() if reason is not None]
    assert [dead_letter.body_length for dead_letter in stored_dead_letters(runtime)] == lengths
    assert max(len(dead_letter.body or b"") for dead_letter in stored_dead_letters(runtime)) == 65_536


def test_bad_entries_are_parked_with_their_reason_and_other_events_are_applied(runtime: Runtime) -> None:
    bad = bad_entries()
    for raw in bad.values():
        append_raw(runtime, TENANT_PARTITION, body(event()), raw)
    append_raw(runtime, TENANT_PARTITION, body(event()))
    drain_all(runtime)
    assert open_reasons(runtime) == [reason.value for reason in bad]
    assert totals(runtime) == {"read": 15, "applied": 8, "duplicates": 0, "dead_lettered": 7, "lost": 0}
    for dead_letter, raw in zip(stored_dead_letters(runtime), bad.values(), strict=True):
        assert dead_letter.body == raw[:65_536]
        assert dead_letter.body_length == len(raw)
        assert dead_letter.partition == TENANT_PARTITION
        assert dead_letter.times_seen == 1
        assert dead_letter.first_seen_us == dead_letter.last_seen_us == dead_letter.position.ms * 1000


def test_a_dead_letter_has_the_tenant_and_event_id_that_its_entry_names(runtime: Runtime) -> None:
    made = event("watchdog.toggled.v1", {"enabled": "yes"})
    append_raw(runtime, TENANT_PARTITION, body(made), b"{}")
    drain_all(runtime)
    assert [(dead_letter.tenant_id, dead_letter.event_id) for dead_letter in stored_dead_letters(runtime)] == [
        (TENANT, made["id"]),
        (None, None),
    ]


def test_no_value_of_an_entry_that_repeats_a_field_is_dropped(runtime: Runtime) -> None:
    client: Any = runtime.stream.redis
    for values in (["1", "2"], ["0", "2"]):
        fields = [word for value in values for word in ("a", value)]
        client.execute_command("XADD", "events:{0}", "*", *fields, "b", "3")
    drain_all(runtime)
    assert [each.body for each in stored_dead_letters(runtime)] == [
        b'{"a": ["1", "2"], "b": "3"}',
        b'{"a": ["0", "2"], "b": "3"}',
    ]


def test_a_stream_that_ends_with_a_repeated_field_is_recognised_and_trimmed(runtime: Runtime) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    client: Any = runtime.stream.redis
    now = [0.0]
    trimmer = Trimmer(runtime, clock=lambda: now[0])
    append(runtime, *(event() for _ in range(400)))
    client.execute_command("XADD", key, "*", "event", "ignored", "event", body(event()))
    drain_all(runtime)
    for _ in range(2):
        trimmer.update(checkpoints(runtime))
        now[0] += TRIM_AFTER_S
    assert runtime.stream.redis.xlen(key) < 200
    append(runtime, event())
    drain_all(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 0
    assert totals(runtime) == {"read": 402, "applied": 402, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_an_id_that_is_no_uuid_is_unique_within_its_source(runtime: Runtime) -> None:
    one, other = event(id="42", source="/a"), event(id="42", source="/b")
    append(runtime, one, other, one, one | {"subject": "other content"})
    drain_all(runtime)
    assert totals(runtime) == {"read": 4, "applied": 2, "duplicates": 1, "dead_lettered": 1, "lost": 0}
    (conflict,) = stored_dead_letters(runtime)
    assert (conflict.reason, conflict.event_id) == ("id_conflict", event_key(one))
    assert f"id: event key {event_key(one)} of tenant {TENANT} was accepted before" in conflict.detail
    logged = dump(runtime.reader, [event_log.table])["event_log"]
    assert {row[1]: json.loads(row[7]) for row in logged} == {event_key(each): each for each in (one, other)}


def test_a_uuid_identifies_the_event_in_any_letter_case_and_from_any_source(runtime: Runtime) -> None:
    made = event(projectid=PROJECT.upper())
    append(runtime, made, made | {"id": made["id"].upper()}, made | {"source": "/other"})
    drain_all(runtime)
    assert open_reasons(runtime) == ["id_conflict", "id_conflict"]
    assert {each.event_id for each in stored_dead_letters(runtime)} == {made["id"]}
    assert [row[:2] for row in dump(runtime.reader)["analysis_trend"]] == [(TENANT, PROJECT)]


def test_the_dead_letter_of_an_event_whose_id_is_no_uuid_closes_when_it_is_applied(runtime: Runtime) -> None:
    made = event(id="01JDZ6T7K3Y4W5X6Z7A8B9C0D1")
    append_raw(runtime, (TENANT_PARTITION + 1) % 4, body(made), body(made | {"source": "/other"}))
    drain_all(runtime)
    assert open_reasons(runtime) == ["wrong_partition", "wrong_partition"]
    append(runtime, made)
    drain_all(runtime)
    assert [each.state for each in stored_dead_letters(runtime)] == ["applied", "open"]


def test_events_in_every_spelling_are_projected_rebuilt_and_verified(runtime: Runtime) -> None:
    made = list(spelled_freely(mixed(600, tenants=3, projects=3)))
    append(runtime, *made)
    drain_all(runtime)
    assert_fully_projected(runtime, made)
    before = dump(runtime.reader)
    assert not any(differing(rebuild_all(runtime)).values())
    assert dump(runtime.reader) == before


def test_every_example_input_has_its_expected_outcome(runtime: Runtime) -> None:
    accepted: list[dict[str, Any]] = []
    reasons: list[str] = []
    seen: Counter[str] = Counter()
    for line in INPUTS.read_text().splitlines():
        expected = json.loads(line)
        made = expected["event"] | {"time": expected["event"]["time"].replace("2026-11-30", "2025-11-30")}
        # Some inputs share an id, so each of them gets a tenant of its own.
        same = f"{made['source']} {made['id']}"
        made["tenantid"] += f".{seen[same]}"
        seen[same] += 1
        append(runtime, made)
        if expected["expect"] == "applied":
            accepted.append(made)
        else:
            reasons.append(expected["expect"])
    drain_all(runtime)
    assert totals(runtime)["applied"] == len(accepted) == 12
    assert sorted(open_reasons(runtime)) == sorted(reasons)
    assert_reads_equal(runtime, accepted)


def test_an_entry_in_binary_mode_is_named(runtime: Runtime) -> None:
    for name in ("ce_id", "ce-specversion", "cloudEvents:id"):
        runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {name: "1", "data": "{}"})
    drain_all(runtime)
    for dead_letter in stored_dead_letters(runtime):
        assert "binary mode of CloudEvents is not supported" in dead_letter.detail


def test_an_entry_without_the_field_event_is_stored_readably(runtime: Runtime) -> None:
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"payload": b"\xff", "other": "1"})
    drain_all(runtime)
    (dead_letter,) = stored_dead_letters(runtime)
    assert (dead_letter.reason, dead_letter.detail) == ("not_an_event", "the entry has no field `event`")
    assert dead_letter.body == b'{"other": "1", "payload": "\\\\xff"}'


def test_other_fields_of_an_entry_are_ignored(runtime: Runtime) -> None:
    runtime.stream.redis.xadd(f"events:{{{TENANT_PARTITION}}}", {"trace": "x", "event": body(event())})
    drain_all(runtime)
    assert totals(runtime)["applied"] == 1


def test_a_dead_letter_seen_again_increases_its_count(runtime: Runtime) -> None:
    append_raw(runtime, TENANT_PARTITION, b"nonsense", b"nonsense", b"other")
    drain_all(runtime)
    append_raw(runtime, TENANT_PARTITION, b"nonsense")
    drain_all(runtime)
    assert sorted(dead_letter.times_seen for dead_letter in stored_dead_letters(runtime)) == [1, 3]
    assert totals(runtime)["dead_lettered"] == 4


def test_a_dead_letter_closes_in_the_transaction_that_applies_its_event(runtime: Runtime) -> None:
    elsewhere = (TENANT_PARTITION + 1) % 4
    made, changed = event(), event()
    append_raw(runtime, elsewhere, body(made), body(changed))
    drain_all(runtime)
    assert open_reasons(runtime) == ["wrong_partition", "wrong_partition"]
    append(runtime, made, changed | {"extra": 1})
    drain_all(runtime)
    assert [dead_letter.state for dead_letter in stored_dead_letters(runtime)] == ["applied", "open"]


def test_batches_of_any_size_produce_identical_rows(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    append(runtime, *mixed(150))
    monkeypatch.setattr(batch_size, "ENTRIES_MAX", 7)
    for partition in range(4):
        run(
            Drainer(runtime, partition, batch_size=BatchSize(count=1)),
            Lease(runtime.queue.connection, partition),
            budget_s=60,
        )
    assert totals(runtime)["applied"] == 150


def test_the_checkpoint_is_compared_under_the_lock(runtime: Runtime) -> None:
    append(runtime, event())
    slow = Drainer(runtime, TENANT_PARTITION)
    batch = slow.reader.next_batch(slow.checkpoint())
    assert batch is not None
    drain_all(runtime)
    with pytest.raises(StaleClaimError):
        apply(runtime.writer, PROJECTIONS, batch)
    assert totals(runtime)["applied"] == 1


def test_the_same_position_in_another_epoch_is_another_checkpoint(runtime: Runtime) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    for life in range(2):
        runtime.stream.redis.delete(key)
        runtime.stream.redis.xadd(key, {"event": body(event())}, id=f"{NOW_MS}-0")
        if life == 0:
            drain_all(runtime)
            runtime.stream.redis.xadd(key, {"event": body(event())})
            slow = Drainer(runtime, TENANT_PARTITION)
            at = slow.checkpoint()
            batch = slow.reader.next_batch(at)
    drain_all(runtime)
    before = checkpoints(runtime)[TENANT_PARTITION]
    assert (before.epoch, before.position) == (1, at.position)
    assert batch is not None
    with pytest.raises(StaleClaimError):
        apply(runtime.writer, PROJECTIONS, batch)
    assert checkpoints(runtime)[TENANT_PARTITION] == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_claim_is_held_until_the_transaction_ends(runtime: Runtime) -> None:
    at = checkpoints(runtime)[TENANT_PARTITION]
    with runtime.writer.begin() as holder, runtime.writer.connect() as other:
        checkpoint_table.claim(holder, at)
        other.exec_driver_sql("SET lock_timeout = '50ms'")
        with pytest.raises(OperationalError, match="lock timeout"):
            checkpoint_table.claim(other, at)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("limit", ["idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"])
def test_sessions_have_timeouts_for_holding_a_claim_and_for_waiting_for_one(runtime: Runtime, limit: str) -> None:
    with runtime.writer.connect() as connection:
        limit_ms = int(connection.scalar(text("SELECT setting FROM pg_settings WHERE name = :name"), {"name": limit}))
    assert 0 < limit_ms <= 30_000


def test_a_transaction_that_fails_at_its_end_leaves_no_trace(runtime: Runtime) -> None:
    def everything() -> dict[str, list[tuple[Any, ...]]]:
        tables = (event_log.table, dead_letters.table, dead_letter_counts.table, checkpoint_table.table)
        return dump(runtime.reader, [*READ_MODELS, *tables])

    append_raw(runtime, (TENANT_PARTITION + 1) % 4, b"nonsense")
    drain_all(runtime)
    before = everything()
    with runtime.writer.begin() as connection:  # one checkpoint with read entries is enough
        name = qualified(connection.dialect, checkpoint_table.table)
        connection.exec_driver_sql(f"CREATE UNIQUE INDEX no_second ON {name} ((read > 0)) WHERE read > 0")
    (first,) = append(runtime, event("project.created.v1"))
    append_raw(runtime, TENANT_PARTITION, b"nonsense", body(event("watchdog.evaluated.v1")))
    with pytest.raises(IntegrityError, match="no_second"):
        Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=16)).step()
    assert everything() == before
    assert runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION].position < first.position
    with runtime.writer.begin() as connection:
        connection.exec_driver_sql(f"DROP INDEX {name.replace('checkpoint', 'no_second')}")
    drain_all(runtime)
    assert totals(runtime) == {"read": 4, "applied": 2, "duplicates": 0, "dead_lettered": 2, "lost": 0}
    assert [dead_letter.times_seen for dead_letter in stored_dead_letters(runtime)] == [2]


def test_a_drain_that_was_overtaken_continues_from_the_checkpoint_of_the_other(runtime: Runtime) -> None:
    slow = Drainer(runtime, TENANT_PARTITION)
    append(runtime, event())
    slow.step()
    append(runtime, event())
    drain_all(runtime)
    append(runtime, event())
    with pytest.raises(StaleClaimError):
        slow.step()
    assert slow.step()
    assert totals(runtime) == {"read": 3, "applied": 3, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_many_drains_at_once_count_each_event_once(runtime: Runtime) -> None:
    append(runtime, *(event() for _ in range(600)))
    errors: list[BaseException] = []

    def work() -> None:
        # No lease protects them: the claim alone must separate them.
        drainer = Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=5))
        while True:
            try:
                if drainer.step():
                    return
            except StaleClaimError:
                continue
            except OperationalError:  # SQLite is sometimes busy
                continue
            except BaseException as error:
                errors.append(error)
                raise

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert totals(runtime) == {"read": 600, "applied": 600, "duplicates": 0, "dead_lettered": 0, "lost": 0}
    assert dump(runtime.reader)["analysis_trend"][0][2] == 600


def failing(poison: str) -> Any:
    """Return the project projection with a bug that affects one event only."""

    def fold(row: project.Project, made: Any) -> project.Project:
        if isinstance(made.data, WatchdogToggled) and made.id == poison:
            raise KeyError("bug")
        return project.fold(row, made)

    return replace(project.projection, fold=fold)


def test_an_event_whose_fold_fails_is_isolated_and_parked_alone(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1")
    append(runtime, *(event() for _ in range(40)), poison, *(event() for _ in range(40)))
    drain_all(with_projections(runtime, *projections_with(failing(poison["id"]))))
    assert open_reasons(runtime) == ["fold_failed"]
    assert stored_dead_letters(runtime)[0].event_id == poison["id"]
    assert "projection project failed with KeyError" in stored_dead_letters(runtime)[0].detail
    assert totals(runtime) == {"read": 81, "applied": 80, "duplicates": 0, "dead_lettered": 1, "lost": 0}


def test_a_poison_event_at_the_start_is_parked_alone(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1")
    append(runtime, poison, event("watchdog.toggled.v1"), event("watchdog.toggled.v1"))
    drain_all(with_projections(runtime, *projections_with(failing(poison["id"]))))
    assert [dead_letter.event_id for dead_letter in stored_dead_letters(runtime)] == [poison["id"]]
    assert totals(runtime)["applied"] == 2


def test_the_event_after_a_poison_event_is_not_suspected(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1")
    append(runtime, poison, event("watchdog.toggled.v1"), event("watchdog.toggled.v1"))
    broken = with_projections(runtime, *projections_with(failing(poison["id"])))
    slow = Drainer(broken, TENANT_PARTITION, batch_size=BatchSize(count=1))
    for _ in range(2):
        with pytest.raises(FoldError) as caught:
            slow.step()
        slow.recovery.isolate(caught.value, slow.attempted)
    drain_all(broken)  # another drain parks it
    append(runtime, event("watchdog.toggled.v1"))
    while not slow.step():
        pass
    assert [dead_letter.event_id for dead_letter in stored_dead_letters(runtime)] == [poison["id"]]
    assert totals(runtime)["applied"] == 3


@pytest.mark.parametrize("part", ["key", "load", "dump", "new"])
def test_a_failure_in_any_part_of_a_projection_parks_the_event(runtime: Runtime, part: str) -> None:
    append(runtime, event("project.created.v1"))
    drain_all(runtime)
    where = "11111111-1111-4111-8111-111111111111" if part == "new" else PROJECT
    poison = event("project.updated.v1", projectid=where, time=format_time(NOW_US))
    append(runtime, event(), poison, event())

    def fails(*arguments: Any) -> Any:
        if part != "key" or arguments[0].id == poison["id"]:
            raise KeyError("bug")
        return project_key(*arguments)

    parts: dict[str, Any] = {part: fails}
    drain_all(with_projections(runtime, *projections_with(replace(project.projection, **parts))))
    assert [dead_letter.event_id for dead_letter in stored_dead_letters(runtime)] == [poison["id"]]
    assert totals(runtime)["applied"] == 3


def test_a_release_that_fails_for_most_tenants_parks_almost_nothing(runtime: Runtime) -> None:
    def fails(_row: Any, _event: Any) -> Any:
        raise KeyError("a bad release")

    tenants = [f"t{number}" for number in range(60)]
    append(runtime, *(event("watchdog.toggled.v1", tenantid=tenant) for tenant in tenants))
    broken = with_projections(runtime, *projections_with(replace(project.projection, fold=fails)))
    shared = CircuitBreaker()
    for _ in range(3):
        for partition in range(4):
            run(Drainer(broken, partition, breaker=shared), Lease(runtime.queue.connection, partition), budget_s=5)
    assert totals(runtime) == {"read": 1, "applied": 0, "duplicates": 0, "dead_lettered": 1, "lost": 0}
    assert str(circuit_breaker.read(runtime.queue.connection)).endswith("projection project failed with KeyError")
    assert any("breaker is open" in problem for problem in problems.all_problems(read_status(runtime)))
    runtime.queue.connection.delete(*(f"projector:drain-lease:{{{partition}}}" for partition in range(4)))
    drain_all(runtime)  # the release is fixed
    assert totals(runtime)["applied"] == 59


def test_one_tenants_poison_cannot_open_the_breaker(runtime: Runtime) -> None:
    made = [event("watchdog.toggled.v1") for _ in range(5)]
    append(runtime, *made, event(), *(event(tenantid=f"t{number}") for number in range(5)))
    poison = {each["id"] for each in made}

    def fold(row: project.Project, each: Any) -> project.Project:
        if each.id in poison:
            raise KeyError("bug")
        return project.fold(row, each)

    drain_all(with_projections(runtime, *projections_with(replace(project.projection, fold=fold))))
    assert {dead_letter.event_id for dead_letter in stored_dead_letters(runtime)} == poison
    assert totals(runtime)["applied"] == 6


def test_a_time_beyond_the_year_9999_is_in_the_future_and_other_events_are_applied(runtime: Runtime) -> None:
    append(runtime, event(), event(time="9999-12-31T23:59:59-23:59"), event())
    drain_all(runtime)
    assert open_reasons(runtime) == ["time_in_future"]
    assert totals(runtime)["applied"] == 2


def test_an_entry_id_beyond_63_bits_does_not_stop_other_entries(runtime: Runtime) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    for id_, raw in (
        ("9223372036854776-5", b"bad"),
        (f"{2**63}-{2**64 - 1}", body(event())),
        (f"{2**64 - 2}-7", b"worse"),
    ):
        runtime.stream.redis.xadd(key, {"event": raw}, id=id_)
    drain_all(runtime)
    assert checkpoints(runtime)[TENANT_PARTITION].position == Position(2**64 - 2, 7)
    assert totals(runtime) == {"read": 3, "applied": 1, "duplicates": 0, "dead_lettered": 2, "lost": 0}
    runtime.stream.redis.xadd(key, {"event": body(event())})
    drain_all(runtime)
    assert totals(runtime)["applied"] == 2
    assert max(dead_letter.position for dead_letter in stored_dead_letters(runtime)) == Position(2**64 - 2, 7)


def test_a_dead_letter_of_an_applied_event_does_not_open_again(runtime: Runtime) -> None:
    made = event()
    append(runtime, made)
    drain_all(runtime)
    append_raw(runtime, (TENANT_PARTITION + 1) % 4, body(made), body(made | {"extra": 1}))
    drain_all(runtime)
    assert [dead_letter.state for dead_letter in stored_dead_letters(runtime)] == ["applied", "open"]
    append_raw(runtime, (TENANT_PARTITION + 1) % 4, body(made))
    drain_all(runtime)
    assert sorted((dead_letter.state, dead_letter.times_seen) for dead_letter in stored_dead_letters(runtime)) == [
        ("applied", 2),
        ("open", 1),
    ]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_misrouted_event_applied_concurrently_in_its_owner_partition_leaves_no_open_dead_letter(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = event()
    append(runtime, made)
    append_raw(runtime, (TENANT_PARTITION + 1) % 4, body(made))
    at_home, astray = threading.Event(), threading.Event()
    advance, claim = checkpoint_table.advance, checkpoint_table.claim

    def advance_slowly(connection: Connection, to: Checkpoint) -> None:
        advance(connection, to)
        if to.partition == TENANT_PARTITION:
            at_home.set()
            assert astray.wait(20)
            wait_until(lambda: _waits_for_a_lock(runtime), "the other session waits for the claim")

    def claim_loudly(*arguments: Any) -> Any:
        astray.set()
        return claim(*arguments)

    monkeypatch.setattr(checkpoint_table, "advance", advance_slowly)
    owner = threading.Thread(target=Drainer(runtime, TENANT_PARTITION).step)
    owner.start()
    assert at_home.wait(20)
    monkeypatch.setattr(checkpoint_table, "claim", claim_loudly)
    Drainer(runtime, (TENANT_PARTITION + 1) % 4).step()
    owner.join()
    assert [dead_letter.state for dead_letter in stored_dead_letters(runtime)] == ["applied"]
    assert totals(runtime)["applied"] == 1


def _waits_for_a_lock(runtime: Runtime) -> bool:
    with runtime.reader.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_an_empty_field_is_stored_as_empty_bytes(runtime: Runtime) -> None:
    append_raw(runtime, TENANT_PARTITION, b"")
    drain_all(runtime)
    (dead_letter,) = stored_dead_letters(runtime)
    assert (dead_letter.reason, dead_letter.body, dead_letter.body_length) == ("not_json", b"", 0)


def test_large_entries_make_the_next_batch_smaller(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "BYTES_MAX", 200_000)
    append_raw(runtime, TENANT_PARTITION, *[b"x" * 20_000] * 40)
    drainer = Drainer(runtime, TENANT_PARTITION)
    drainer.step()
    assert drainer.batch_size.count <= 10
    while not drainer.step():
        assert drainer.batch_size.count <= 10
    assert totals(runtime)["dead_lettered"] == 40


def with_memory_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, entries: int) -> list[int]:
    """Let reads of more entries fail; returns a growing list of the sizes of failed reads."""
    read_after, failed = Stream.read_after, list[int]()

    def call(stream: Stream, partition: int, position: Position, count: int, other: Position) -> StreamSlice:
        if count > entries:
            failed.append(count)
            raise MemoryError
        return read_after(stream, partition, position, count, other)

    monkeypatch.setattr(Stream, "read_after", call)
    append(runtime, *(event() for _ in range(300)))
    return failed


@pytest.mark.parametrize(("entries", "too_many"), [(1, [64, 32, 16, 8, 4, 2]), (30, [64, 32])])
def test_a_batch_too_large_for_memory_is_halved_until_it_fits_and_later_batches_are_no_larger(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, entries: int, too_many: list[int]
) -> None:
    failed = with_memory_for(runtime, monkeypatch, entries)
    run(Drainer(runtime, TENANT_PARTITION), Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=60)
    assert (totals(runtime)["applied"], failed) == (300, too_many)


def test_an_entry_that_does_not_fit_alone_is_retried_with_pauses(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = with_memory_for(runtime, monkeypatch, entries=0)
    drainer = Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=1))
    run(drainer, Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=2)
    assert 1 <= len(failed) < 6
    assert drainer.batch_size.consecutive_waits == len(failed)


def test_halving_down_to_an_entry_that_does_not_fit_does_not_lengthen_its_first_pause() -> None:
    short = BatchSize(count=batch_size.ENTRIES_MAX)
    while short.shrink_for_memory():
        assert short.consecutive_failures <= batch_size.NARROWING_STEPS_MAX
    assert short.count == 1
    assert short.next_pause_s() <= batch_size.BACK_OFF_FIRST_S


def test_after_a_while_batches_grow_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    short, done = BatchSize(count=16), StreamSlice([], StreamEnd(None, 0, 0))
    assert short.shrink_for_memory()
    assert (short.count, short.next_count(done)) == (8, 8)
    now_s[0] = batch_size.MEMORY_SHORT_S
    assert short.next_count(done) == 8 * 8 * batch_size.GROWTH_FACTOR


def test_after_a_kill_a_new_process_starts_with_one_entry_and_doubles_up_to_half_of_that_batch(
    runtime: Runtime,
) -> None:
    append(runtime, *(event() for _ in range(100)))
    killed = Drainer(runtime, TENANT_PARTITION)
    killed.step()
    killed.reader.next_batch(killed.checkpoint())  # 64 entries, after which it is killed
    following, counts = Drainer(runtime, TENANT_PARTITION), []
    while not following.step():
        counts.append(following.batch_size.count)
    assert counts == [2, 4, 8, 16, 32, 32, 32]
    run(following, Lease(runtime.queue.connection, TENANT_PARTITION), 5)
    append(runtime, *(event() for _ in range(100)))
    after_a_clean_end = Drainer(runtime, TENANT_PARTITION)
    after_a_clean_end.step()
    assert after_a_clean_end.batch_size.count == batch_size.GROWTH_FACTOR


def test_small_drains_leave_no_mark_and_large_ones_remove_it(runtime: Runtime) -> None:
    marks: list[Any] = []
    for number, size in ((100, 10), (5, 10), (40, 60_000)):
        append(runtime, *(event(data={**event()["data"], "ignored": "x" * size}) for _ in range(number)))
        drain_all(runtime)
        marks += runtime.queue.connection.keys("projector:large-batch:*")
    assert marks == []


@pytest.mark.parametrize("error", [MemoryError(), OSError("disk"), ConnectionError(), TimeoutError()])
def test_external_errors_park_nothing_even_when_a_fold_raises_them(runtime: Runtime, error: Exception) -> None:
    failures = iter([error] * 12)

    def fold(row: project.Project, made: Any) -> project.Project:
        if (failure := next(failures, None)) is not None:
            raise failure
        return project.fold(row, made)

    append(runtime, event("watchdog.toggled.v1"))
    world = with_projections(runtime, replace(project.projection, fold=fold))
    for _ in range(12):
        drainer = Drainer(world, TENANT_PARTITION, batch_size=BatchSize(count=1))
        run(drainer, Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=0.2)
        runtime.stream.redis.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")
    drain_all(world)
    assert stored_dead_letters(runtime) == []
    assert totals(runtime)["applied"] == 1


def test_an_unreachable_database_parks_nothing(runtime: Runtime) -> None:
    append(runtime, event())
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    size, suspect = BatchSize(count=1), PoisonSuspect()  # the state of one worker
    for _ in range(3):
        away = Drainer(replace(runtime, writer=nowhere), TENANT_PARTITION, size, poison=suspect)
        run(away, Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=0.5)
        runtime.stream.redis.delete(f"projector:drain-lease:{{{TENANT_PARTITION}}}")
    run(Drainer(runtime, TENANT_PARTITION, size, poison=suspect), Lease(runtime.queue.connection, TENANT_PARTITION))
    assert stored_dead_letters(runtime) == []
    assert totals(runtime)["applied"] == 1


def test_a_stream_deleted_and_refilled_starts_a_new_epoch(runtime: Runtime) -> None:
    made = [event() for _ in range(5)]
    append(runtime, *made)
    drain_all(runtime)
    runtime.stream.redis.delete(f"events:{{{TENANT_PARTITION}}}")
    append(runtime, *made[:2], event())
    drain_all(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.epoch, at.read, at.applied, at.duplicates, at.lost) == (1, 8, 6, 2, 0)


def test_a_stream_restored_from_an_older_copy_is_noticed_even_after_its_ids_pass_the_checkpoint(
    runtime: Runtime,
) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    first = event()
    runtime.stream.redis.xadd(key, {"event": body(first)}, id=f"{NOW_MS + 1000}-0")
    runtime.stream.redis.xadd(key, {"event": body(event())}, id=f"{NOW_MS + 2000}-0")
    drain_all(runtime)
    runtime.stream.redis.delete(key)
    runtime.stream.redis.xadd(key, {"event": body(first)}, id=f"{NOW_MS + 1000}-0")
    below, same, above = event(), event(), event()
    for made, id_ in ((below, f"{NOW_MS + 1500}-0"), (same, f"{NOW_MS + 2000}-0"), (above, f"{NOW_MS + 3000}-0")):
        runtime.stream.redis.xadd(key, {"event": body(made)}, id=id_)
    drain_all(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.epoch, at.applied, at.duplicates, at.position) == (1, 5, 1, Position(NOW_MS + 3000, 0))


@pytest.mark.parametrize("with_checkpoint_entry", [True, False])
def test_entries_lost_unread_are_counted_and_the_rest_is_applied(runtime: Runtime, with_checkpoint_entry: bool) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    for number in range(1, 4):
        runtime.stream.redis.xadd(key, {"event": body(event())}, id=f"{NOW_MS + number}-0")
    drain_all(runtime)
    for number in range(4, 9):
        runtime.stream.redis.xadd(key, {"event": body(event())}, id=f"{NOW_MS + number}-0")
    if with_checkpoint_entry:
        runtime.stream.redis.xdel(key, f"{NOW_MS + 4}-0", f"{NOW_MS + 6}-0")
    else:
        runtime.stream.redis.xtrim(key, minid=f"{NOW_MS + 6}-0", approximate=False)
    drain_all(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.applied, at.lost, at.position) == (6, 2, Position(NOW_MS + 8, 0))
    end = runtime.stream.ends()[TENANT_PARTITION]
    assert at.added_offset + end.added == at.read + at.lost


def test_a_stream_emptied_unread_is_counted_at_once(runtime: Runtime) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    append(runtime, *(event() for _ in range(3)))
    drain_all(runtime)
    append(runtime, *(event() for _ in range(5)))
    runtime.stream.redis.xtrim(key, maxlen=0, approximate=False)
    assert drainer.needs_drain(checkpoints(runtime)[TENANT_PARTITION], runtime.stream.ends()[TENANT_PARTITION])
    assert (
        read_status(runtime).partitions[TENANT_PARTITION].lost,
        read_status(runtime).partitions[TENANT_PARTITION].in_flight,
    ) == (5, 0)
    drain_all(runtime)
    assert totals(runtime) == {"read": 3, "applied": 3, "duplicates": 0, "dead_lettered": 0, "lost": 5}
    assert not drainer.needs_drain(checkpoints(runtime)[TENANT_PARTITION], runtime.stream.ends()[TENANT_PARTITION])
    append(runtime, event())
    drain_all(runtime)
    assert totals(runtime) == {"read": 4, "applied": 4, "duplicates": 0, "dead_lettered": 0, "lost": 5}


def assert_counters_add_up(runtime: Runtime) -> None:
    """docs/explanation/guarantees.md#g1-nothing-is-lost."""
    owner = read_status(runtime).partitions[TENANT_PARTITION]
    assert owner.read == owner.applied + owner.duplicates + owner.dead_lettered
    assert owner.added == owner.read + owner.in_flight + owner.lost
    assert owner.in_flight >= 0


def assert_all_is_read(runtime: Runtime) -> None:
    """When no counter shows entries in flight, none is left unread in the stream."""
    owner = read_status(runtime).partitions[TENANT_PARTITION]
    assert owner.in_flight == 0
    assert runtime.stream.redis.xrange(f"events:{{{TENANT_PARTITION}}}", min=f"({owner.position}") == []
    assert not drainer.needs_drain(checkpoints(runtime)[TENANT_PARTITION], runtime.stream.ends()[TENANT_PARTITION])


class TamperedStream:
    """A stream with 10 read entries and 20 more that were seen, which tests then tamper with."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.redis = runtime.stream.redis
        self.key = f"events:{{{TENANT_PARTITION}}}"
        self.add(*range(10))
        drain_all(runtime)
        self.add(*range(10, 30))
        drainer = Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=1))
        drainer.step()
        assert checkpoints(runtime)[TENANT_PARTITION].read == 11

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.redis.xadd(self.key, {"event": body(event())}, id=f"{NOW_MS + number}-0")

    def remove(self, *numbers: int) -> None:
        self.redis.xdel(self.key, *(f"{NOW_MS + number}-0" for number in numbers))

    def set_back_to(self, count: int) -> None:
        """Set a stream back to its first entries, with its counter, like an older state of Redis."""
        kept: Any = self.redis.xrange(self.key, count=count)
        self.redis.delete(self.key)
        for entry_id, fields in kept:
            self.redis.xadd(self.key, fields, id=entry_id)


@pytest.mark.parametrize(
    ("tamper", "read", "lost", "epoch"),
    [
        pytest.param(lambda s: s.redis.delete(s.key), 11, 19, 0, id="the key is gone"),
        pytest.param(lambda s: (s.redis.delete(s.key), s.add(100, 101)), 13, 19, 1, id="another stream"),
        pytest.param(lambda s: (s.redis.delete(s.key), s.add(*range(5, 50, 2))), 34, 19, 1, id="with ids all around"),
        pytest.param(lambda s: s.set_back_to(5), 16, 19, 1, id="restored as it was before the checkpoint"),
        pytest.param(lambda s: s.set_back_to(20), 20, 10, 0, id="the tail is gone"),
        pytest.param(lambda s: s.set_back_to(11), 11, 19, 0, id="all that waited is gone"),
        pytest.param(
            lambda s: (s.set_back_to(20), s.add(*range(40, 90))), 70, 10, 0, id="the tail is gone, and more has come"
        ),
        pytest.param(lambda s: s.remove(15, 16, 20), 27, 3, 0, id="some of the middle"),
        pytest.param(lambda s: s.remove(10, 15, 16, 20), 27, 3, 0, id="the checkpoint's own entry, and some"),
        pytest.param(lambda s: (s.remove(29), s.add(40)), 30, 1, 0, id="the last one seen"),
        pytest.param(lambda s: s.redis.xtrim(s.key, maxlen=5, approximate=False), 16, 14, 0, id="trimmed unread"),
    ],
)
def test_entries_seen_and_then_lost_are_counted_whatever_happened_to_the_stream(
    runtime: Runtime, tamper: Callable[[TamperedStream], Any], read: int, lost: int, epoch: int
) -> None:
    tampered = TamperedStream(runtime)
    tamper(tampered)
    assert_counters_add_up(runtime)
    drain_all(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.read, at.lost, at.epoch) == (read, lost, epoch)
    assert_counters_add_up(runtime)
    assert_all_is_read(runtime)
    tampered.add(1000)
    drain_all(runtime)
    after = checkpoints(runtime)[TENANT_PARTITION]
    assert (after.lost, after.position) == (lost, Position(NOW_MS + 1000, 0))
    assert_counters_add_up(runtime)
    assert_all_is_read(runtime)


def test_an_empty_replacement_of_a_stream_enqueues_no_drain(runtime: Runtime) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    append(runtime, *(event() for _ in range(5)))
    drain_all(runtime)
    runtime.stream.redis.delete(key)
    runtime.stream.redis.xdel(key, str(append(runtime, event())[0].position))
    drain_all(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert not drainer.needs_drain(at, runtime.stream.ends()[TENANT_PARTITION])
    append(runtime, event())
    drain_all(runtime)
    assert totals(runtime)["applied"] == 6


def test_of_two_drains_that_record_the_same_loss_one_is_refused(runtime: Runtime) -> None:
    append(runtime, event())
    drain_all(runtime)
    slow, fast = Drainer(runtime, TENANT_PARTITION), Drainer(runtime, TENANT_PARTITION)
    append(runtime, event())
    runtime.stream.redis.xtrim(f"events:{{{TENANT_PARTITION}}}", maxlen=0, approximate=False)
    prepared = slow.reader.next_batch(checkpoints(runtime)[TENANT_PARTITION])
    assert prepared is not None
    append(runtime, event())
    runtime.stream.redis.xtrim(f"events:{{{TENANT_PARTITION}}}", maxlen=0, approximate=False)
    fast.step()
    with pytest.raises(StaleClaimError, match=r"2 lost, not at .* 0 lost"):
        apply(runtime.writer, PROJECTIONS, prepared)
    assert totals(runtime) == {"read": 1, "applied": 1, "duplicates": 0, "dead_lettered": 0, "lost": 2}


def test_a_tail_deleted_unread_is_counted_without_another_entry(runtime: Runtime) -> None:
    key = f"events:{{{TENANT_PARTITION}}}"
    ids = [runtime.stream.redis.xadd(key, {"event": body(event())}) for _ in range(3)]
    drain_all(runtime)
    gone: Any = runtime.stream.redis.xadd(key, {"event": body(event())})
    runtime.stream.redis.xdel(key, gone)
    assert drainer.needs_drain(checkpoints(runtime)[TENANT_PARTITION], runtime.stream.ends()[TENANT_PARTITION])
    drain_all(runtime)
    at = checkpoints(runtime)[TENANT_PARTITION]
    assert (at.applied, at.lost, str(at.position).encode()) == (3, 1, ids[-1])
    assert not drainer.needs_drain(at, runtime.stream.ends()[TENANT_PARTITION])


def test_draining_an_empty_stream_changes_nothing(runtime: Runtime) -> None:
    before = checkpoints(runtime)
    drain_all(runtime)
    assert checkpoints(runtime) == before


def test_the_hint_says_how_far_a_partition_is_projected(runtime: Runtime) -> None:
    *_, last = append(runtime, event(), event())
    drain_all(runtime)
    progress = runtime.stream.projected([TENANT_PARTITION])[TENANT_PARTITION]
    assert (progress.position, progress.entries) == (last.position, 2)
    assert runtime.stream.redis.get(f"events:{{{TENANT_PARTITION}}}:projected") == str(last.position).encode()


def test_a_drain_that_is_out_of_time_leaves_the_rest_and_releases_the_lease(runtime: Runtime) -> None:
    append(runtime, *(event() for _ in range(300)))
    run(Drainer(runtime, TENANT_PARTITION), Lease(runtime.queue.connection, TENANT_PARTITION), budget_s=0.0)
    assert totals(runtime)["read"] == 0
    assert Lease(runtime.queue.connection, TENANT_PARTITION).acquire()


def test_entries_that_arrive_while_the_lease_is_released_are_drained_too(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, late = Lease.release, [event()]

    def release_late(lease: Lease) -> None:
        append(runtime, *(late.pop() for _ in tuple(late)))
        release(lease)

    append(runtime, event())
    monkeypatch.setattr(Lease, "release", release_late)
    run(Drainer(runtime, TENANT_PARTITION), Lease(runtime.queue.connection, TENANT_PARTITION))
    assert totals(runtime)["applied"] == 2


def test_a_drain_without_the_lease_does_nothing(runtime: Runtime) -> None:
    append(runtime, event())
    assert Lease(runtime.queue.connection, TENANT_PARTITION, "another").acquire()
    run(Drainer(runtime, TENANT_PARTITION), Lease(runtime.queue.connection, TENANT_PARTITION, "mine"))
    assert totals(runtime)["read"] == 0


def test_a_drain_that_loses_its_lease_stops_before_the_next_batch(runtime: Runtime) -> None:
    class Robbed(Drainer):
        def step(self, *, read_ahead: bool = False) -> bool:
            dry = super().step(read_ahead=read_ahead)
            runtime.queue.connection.set(f"projector:drain-lease:{{{TENANT_PARTITION}}}", "a stranger's")
            return dry

    append(runtime, *(event() for _ in range(10)))
    run(
        Robbed(runtime, TENANT_PARTITION, batch_size=BatchSize(count=1)),
        Lease(runtime.queue.connection, TENANT_PARTITION),
    )
    assert totals(runtime)["read"] == 1
    assert runtime.queue.connection.get(f"projector:drain-lease:{{{TENANT_PARTITION}}}") == b"a stranger's"


def looking_ahead(runtime: Runtime) -> Drainer:
    """Return a drain that has applied two of 400 events and prefetched the next 256."""
    append(runtime, *(event() for _ in range(400)))
    drainer = Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=2))
    assert not drainer.step(read_ahead=True)
    assert drainer.reader._ahead is not None
    return drainer


def test_a_prefetched_batch_is_applied_next_and_read_only_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    drainer = looking_ahead(runtime)
    monkeypatch.delattr(Stream, "read_after")
    drainer.step()
    assert totals(runtime) == {"read": 258, "applied": 258, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_a_prefetched_batch_is_discarded_if_another_drain_advanced_the_checkpoint(runtime: Runtime) -> None:
    drainer = looking_ahead(runtime)
    Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=3)).step()
    with pytest.raises(StaleClaimError):
        drainer.step(read_ahead=True)
    while not drainer.step(read_ahead=True):
        pass
    assert totals(runtime) == {"read": 400, "applied": 400, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_a_prefetched_batch_is_discarded_if_the_batch_before_it_fails(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    drainer = looking_ahead(runtime)
    with monkeypatch.context() as patch:
        patch.delattr(checkpoint_table, "advance")
        with pytest.raises(AttributeError):
            drainer.step(read_ahead=True)
    while not drainer.step(read_ahead=True):
        pass
    assert totals(runtime) == {"read": 400, "applied": 400, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_a_stream_replaced_between_prefetch_and_apply_starts_a_new_epoch(runtime: Runtime) -> None:
    drainer = looking_ahead(runtime)
    runtime.stream.redis.delete(f"events:{{{TENANT_PARTITION}}}")
    append(runtime, *(event() for _ in range(5)))
    while not drainer.step(read_ahead=True):
        pass
    assert_all_is_read(runtime)
    assert totals(runtime) == {"read": 263, "applied": 263, "duplicates": 0, "dead_lettered": 0, "lost": 142}
    assert checkpoints(runtime)[TENANT_PARTITION].epoch == 1


@pytest.mark.parametrize(("count", "failed"), [(1, 0), (2, 1)], ids=["the first entry", "after a failure"])
def test_nothing_is_prefetched_while_two_batches_may_not_fit_into_memory(
    runtime: Runtime, count: int, failed: int
) -> None:
    append(runtime, *(event() for _ in range(300)))
    drainer = Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count, consecutive_failures=failed))
    assert not drainer.step(read_ahead=True)
    assert drainer.reader._ahead is None
    assert not drainer.step(read_ahead=True)
    assert drainer.reader._ahead is not None


def test_an_outage_during_prefetch_does_not_prevent_applying_the_current_batch(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(runtime, *(event() for _ in range(30)))
    drainer = Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=2))
    read_after, calls = Stream.read_after, itertools.count(1)

    def failing_after_the_first(*arguments: Any, **options: Any) -> StreamSlice:
        if next(calls) > 1:
            raise redis.ConnectionError("gone")
        return read_after(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "read_after", failing_after_the_first)
        drainer.step(read_ahead=True)
        assert totals(runtime)["applied"] == 2
        with pytest.raises(redis.ConnectionError, match="gone"):
            drainer.step(read_ahead=True)
    while not drainer.step(read_ahead=True):
        pass
    assert totals(runtime) == {"read": 30, "applied": 30, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_prefetched_entries_are_decoded_while_postgresql_is_awaited(runtime: Runtime) -> None:
    drainer = looking_ahead(runtime)
    look = drainer.reader._ahead
    assert look is not None
    waits = runtime.writer.dialect.name == "postgresql"  # SQLite runs in this thread
    assert bool(look.events) is waits
    assert len(look.events) + len(look.undecoded(1000)) == 256


def test_an_error_while_decoding_prefetched_entries_fails_their_batch_once_and_loses_nothing(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [event() for _ in range(200)]
    append(runtime, *made)
    bodies, failed = [body(each) for each in made[2:]], list[bytes]()

    def failing_once(together: Sequence[bytes], arrival: Arrival) -> list[Event] | None:
        if together[0] in bodies and not failed:
            failed.append(together[0])
            raise RuntimeError("a bug of ours")
        return decode_batch(together, arrival)

    monkeypatch.setattr(entry_decoding, "decode_batch", failing_once)
    run(
        Drainer(runtime, TENANT_PARTITION, batch_size=BatchSize(count=2)),
        Lease(runtime.queue.connection, TENANT_PARTITION),
        budget_s=10,
    )
    assert failed
    assert totals(runtime) == {"read": 200, "applied": 200, "duplicates": 0, "dead_lettered": 0, "lost": 0}


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batch_sizes_stay_within_their_bounds(sizes: list[int]) -> None:
    pace_ = BatchSize()
    shared = bytes(10**7)
    entries = [Entry(b"%d-0" % number, [b"event", shared[:size]]) for number, size in enumerate(sizes)]
    for _ in range(12):
        pace_.grow(pace_.next_count(StreamSlice(entries, StreamEnd(None, 0, 0))))
        assert 1 <= pace_.count <= batch_size.ENTRIES_MAX
    assert pace_.count * sum(sizes) // len(sizes) <= batch_size.BYTES_MAX or pace_.count == 1


def test_a_writer_holds_sqlites_lock_from_the_start_of_its_transaction(sqlite_url: str) -> None:
    patient, hasty = writer_engine(sqlite_url), create_engine(sqlite_url, connect_args={"timeout": 0})
    with patient.connect() as holder, hasty.connect() as other:
        holder.execute(select(event_log.table))
        with pytest.raises(OperationalError, match="locked"):
            other.exec_driver_sql("DELETE FROM activity")
    patient.dispose()
    hasty.dispose()


def test_dead_letters_with_the_largest_entry_ids_are_replayed_last(writer: Engine) -> None:
    positions = [Position(2**63 + 1, 0), Position(5, 2**63), Position(5, 1), Position(2**63 - 1, 0)]
    parked = [dead_letters.DeadLetter(0, at, str(at).encode(), Reason.NOT_JSON, "no JSON") for at in positions]
    with writer.begin() as connection:
        dead_letters.park(connection, parked)
        (page,) = iter_pages(connection, Selection())
    assert [each.position for each in page] == sorted(positions)
