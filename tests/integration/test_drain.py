"""The drain, on both databases: each event counts once, nothing bad stops its neighbours, nothing is lost unseen."""

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, create_engine, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from event_stream.decoding import Arrival, decode_batch
from event_stream.entries import START, Entry, Position, StreamEnd, StreamSlice
from event_stream.envelope import Reason, equal_json, time_text
from event_stream.event_types import Event, WatchdogToggled, partition_of
from event_stream.stream import Stream
from projections.database.engines import writer_engine
from projections.folding.projection import FoldError, project_key
from projections.read_models import project
from projections.read_models.registry import PROJECTIONS
from projections.transaction import checkpoint, dead_letters, event_log
from projections.transaction.apply import apply
from projections.transaction.checkpoint import Checkpoint, StaleClaimError
from tests.support.driving import (
    READ_MODELS,
    append,
    append_raw,
    checkpoints,
    drain_all,
    dump,
    in_place,
    letters,
    log_size,
    totals,
    with_projections,
)
from tests.support.events import NOW_US, PROJECT, TENANT, body, event, mixed
from tests.support.servers import wait_until
from workers.drain import batch_reader, batch_size, circuit_breaker, drainer
from workers.drain.batch_size import BatchSize
from workers.drain.circuit_breaker import CircuitBreaker
from workers.drain.drainer import Drainer, run
from workers.jobs.lease import Lease
from workers.reporting.status import read_status
from workers.runtime import Runtime

pytestmark = pytest.mark.both_databases

HOME = partition_of(TENANT, 4)
NOW_MS = NOW_US // 1000


def open_reasons(runtime: Runtime) -> list[str]:
    return [letter.reason for letter in letters(runtime) if letter.state == "open"]


def test_events_are_logged_folded_and_counted_once(runtime: Runtime) -> None:
    append(runtime, event("project.created.v1"), event(), event())
    drain_all(runtime)
    assert totals(runtime) == {"read": 3, "applied": 3, "duplicates": 0, "dead_lettered": 0, "lost": 0}
    assert log_size(runtime.reader) == 3
    assert dump(runtime.reader)["analysis_trend"][0][2] == 2


def test_the_log_is_numbered_densely_per_partition(runtime: Runtime) -> None:
    append(runtime, *mixed(300))
    drain_all(runtime)
    append(runtime, *mixed(300), *mixed(300, seed=2))  # repeats take no number
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
    append_raw(runtime, HOME, body(made), body(dict(reversed(made.items()))), b" " + body(made))
    assert Drainer(
        runtime, HOME, pace=BatchSize(count=16)
    ).step()  # at once: not only after the log's primary key has split the batch
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
    assert first["id"] in letters(runtime)[0].detail


@pytest.mark.parametrize(("bad", "repeats"), [({}, 1), ({"type": "analysis.created.v2"}, 0)])
def test_letters_of_one_accepted_identity_cost_no_more_the_more_there_are(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, bad: dict[str, Any], repeats: int
) -> None:
    """As of a producer that gives all its events one id."""
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
    assert {letter.state for letter in letters(runtime)} == {"open"}


def test_the_same_id_of_another_tenant_is_another_event(runtime: Runtime) -> None:
    made = event()
    append(runtime, made, made | {"tenantid": "ten_other"})
    drain_all(runtime)
    assert totals(runtime)["applied"] == 2


def bad_entries() -> dict[Reason, bytes]:
    """Return one bad entry of each reason that can be appended to TENANT's partition."""
    elsewhere = next(f"t{n}" for n in range(99) if partition_of(f"t{n}", 4) != HOME)
    return {
        Reason.TOO_LARGE: body(event(pad="x" * 70_000)),
        Reason.NOT_JSON: b'{"id": NaN}',
        Reason.NOT_AN_EVENT: body(event(source="")),
        Reason.WRONG_PARTITION: body(event(tenantid=elsewhere)),
        Reason.UNKNOWN_TYPE: body(event() | {"type": "analysis.created.v9"}),
        Reason.INVALID_DATA: body(event("watchdog.toggled.v1", {"enabled": "yes"})),
        Reason.TIME_IN_FUTURE: body(event(time=time_text(NOW_US + 86_400_000_000))),
    }


def sized(length: int) -> bytes:
    """Return a valid event of exactly that many bytes."""
    made = event(pad="")
    return body(made | {"pad": "x" * (length - len(body(made)))})


def with_extra(json: bytes) -> bytes:
    """Return a valid event with a member of which only its JSON is given."""
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


def test_monsters_get_the_same_verdict_on_both_databases_and_their_neighbours_go_on(runtime: Runtime) -> None:
    for make, _ in MONSTERS.values():
        append_raw(runtime, HOME, make(), body(event()))
    drain_all(runtime)
    expected = [reason for _, reason in MONSTERS.values() if reason is not None]
    assert open_reasons(runtime) == expected
    applied = 2 * len(MONSTERS) - len(expected)
    assert totals(runtime)["applied"] == applied
    assert dump(runtime.reader)["analysis_trend"][0][2] == applied
    lengths = [len(make()) for make, reason in MONSTERS.values() if reason is not None]
    assert [letter.body_length for letter in letters(runtime)] == lengths
    assert max(len(letter.body) for letter in letters(runtime)) == 65_536


def test_bad_entries_are_parked_with_their_reason_and_stop_nobody(runtime: Runtime) -> None:
    bad = bad_entries()
    for raw in bad.values():
        append_raw(runtime, HOME, body(event()), raw)
    append_raw(runtime, HOME, body(event()))
    drain_all(runtime)
    assert open_reasons(runtime) == [reason.value for reason in bad]
    assert totals(runtime) == {"read": 15, "applied": 8, "duplicates": 0, "dead_lettered": 7, "lost": 0}
    for letter, raw in zip(letters(runtime), bad.values(), strict=True):
        assert letter.body == raw[:65_536]
        assert letter.body_length == len(raw)
        assert letter.partition == HOME
        assert letter.times_seen == 1
        assert letter.first_seen_us == letter.last_seen_us == letter.position.ms * 1000


def test_a_letter_knows_whose_it_is_where_the_entry_says_so(runtime: Runtime) -> None:
    made = event("watchdog.toggled.v1", {"enabled": "yes"})
    append_raw(runtime, HOME, body(made), b"{}")
    drain_all(runtime)
    assert [(letter.tenant_id, letter.event_id) for letter in letters(runtime)] == [(TENANT, made["id"]), (None, None)]


def test_an_entry_without_the_field_event_is_kept_for_people_to_see(runtime: Runtime) -> None:
    runtime.stream.redis.xadd(f"events:{{{HOME}}}", {"payload": b"\xff", "other": "1"})
    drain_all(runtime)
    (letter,) = letters(runtime)
    assert (letter.reason, letter.detail) == ("not_an_event", "the entry has no field `event`")
    assert letter.body == b'{"other": "1", "payload": "\\\\xff"}'


def test_other_fields_of_an_entry_are_ignored(runtime: Runtime) -> None:
    runtime.stream.redis.xadd(f"events:{{{HOME}}}", {"trace": "x", "event": body(event())})
    drain_all(runtime)
    assert totals(runtime)["applied"] == 1


def test_a_letter_seen_again_raises_its_count(runtime: Runtime) -> None:
    append_raw(runtime, HOME, b"nonsense", b"nonsense", b"other")
    drain_all(runtime)
    append_raw(runtime, HOME, b"nonsense")
    drain_all(runtime)
    assert sorted(letter.times_seen for letter in letters(runtime)) == [1, 3]
    assert totals(runtime)["dead_lettered"] == 4


def test_a_letter_closes_in_the_transaction_that_applies_its_event(runtime: Runtime) -> None:
    elsewhere = (HOME + 1) % 4
    made, changed = event(), event()
    append_raw(runtime, elsewhere, body(made), body(changed))
    drain_all(runtime)
    assert open_reasons(runtime) == ["wrong_partition", "wrong_partition"]
    append(runtime, made, changed | {"extra": 1})
    drain_all(runtime)
    assert [letter.state for letter in letters(runtime)] == ["applied", "open"]


def test_batches_of_any_size_come_to_the_same(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    append(runtime, *mixed(150))
    monkeypatch.setattr(batch_size, "ENTRIES_MAX", 7)
    for partition in range(4):
        run(
            Drainer(runtime, partition, pace=BatchSize(count=1)),
            Lease(runtime.queue.connection, partition),
            budget_s=60,
        )
    assert totals(runtime)["applied"] == 150


def test_the_checkpoint_is_compared_under_the_lock(runtime: Runtime) -> None:
    append(runtime, event())
    slow = Drainer(runtime, HOME)
    batch = slow.intake.take(slow.checkpoint())
    assert batch is not None
    drain_all(runtime)
    with pytest.raises(StaleClaimError):
        apply(runtime.writer, PROJECTIONS, batch)
    assert totals(runtime)["applied"] == 1


def test_the_same_position_of_another_epoch_is_another_place(runtime: Runtime) -> None:
    key = f"events:{{{HOME}}}"
    for life in range(2):
        runtime.stream.redis.delete(key)
        runtime.stream.redis.xadd(key, {"event": body(event())}, id=f"{NOW_MS}-0")
        if life == 0:
            drain_all(runtime)
            runtime.stream.redis.xadd(key, {"event": body(event())})
            slow = Drainer(runtime, HOME)
            at = slow.checkpoint()
            batch = slow.intake.take(at)
    drain_all(runtime)
    before = checkpoints(runtime)[HOME]
    assert (before.epoch, before.position) == (1, at.position)
    assert batch is not None
    with pytest.raises(StaleClaimError):
        apply(runtime.writer, PROJECTIONS, batch)
    assert checkpoints(runtime)[HOME] == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_claim_is_held_until_the_transaction_ends(runtime: Runtime) -> None:
    at = checkpoints(runtime)[HOME]
    with runtime.writer.begin() as holder, runtime.writer.connect() as other:
        checkpoint.claim(holder, at)
        other.exec_driver_sql("SET lock_timeout = '50ms'")
        with pytest.raises(OperationalError, match="lock timeout"):
            checkpoint.claim(other, at)


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("limit", ["idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout"])
def test_no_session_may_hold_a_claim_or_wait_for_one_for_long(runtime: Runtime, limit: str) -> None:
    with runtime.writer.connect() as connection:
        limit_ms = int(connection.scalar(text("SELECT setting FROM pg_settings WHERE name = :name"), {"name": limit}))
    assert 0 < limit_ms <= 30_000


def test_a_transaction_that_fails_at_its_very_end_leaves_nothing_behind(runtime: Runtime) -> None:
    def everything() -> dict[str, list[tuple[Any, ...]]]:
        return dump(runtime.reader, [*READ_MODELS, event_log.table, dead_letters.table, checkpoint.table])

    append_raw(runtime, (HOME + 1) % 4, b"nonsense")
    drain_all(runtime)
    before = everything()
    with runtime.writer.begin() as connection:  # one checkpoint that has read anything is enough
        connection.exec_driver_sql("CREATE UNIQUE INDEX no_second ON checkpoint ((read > 0)) WHERE read > 0")
    (first,) = append(runtime, event("project.created.v1"))
    append_raw(runtime, HOME, b"nonsense", body(event("watchdog.evaluated.v1")))
    with pytest.raises(IntegrityError, match="no_second"):
        Drainer(runtime, HOME, pace=BatchSize(count=16)).step()
    assert everything() == before
    assert runtime.stream.projected([HOME])[HOME].position < first.position
    with runtime.writer.begin() as connection:
        connection.exec_driver_sql("DROP INDEX no_second")
    drain_all(runtime)
    assert totals(runtime) == {"read": 4, "applied": 2, "duplicates": 0, "dead_lettered": 2, "lost": 0}
    assert [letter.times_seen for letter in letters(runtime)] == [2]


def test_a_drain_that_was_overtaken_goes_on_from_where_the_other_is(runtime: Runtime) -> None:
    slow = Drainer(runtime, HOME)
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
        # No lease between them: the claim alone must keep them apart.
        drainer = Drainer(runtime, HOME, pace=BatchSize(count=5))
        while True:
            try:
                if drainer.step():
                    return
            except StaleClaimError:
                continue
            except OperationalError:  # SQLite is busy now and then
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
    """Return the project projection with a bug that shows on one event only."""

    def fold(row: project.Project, made: Any) -> project.Project:
        if isinstance(made.data, WatchdogToggled) and made.id == poison:
            raise KeyError("bug")
        return project.fold(row, made)

    return replace(project.projection, fold=fold)


def test_an_event_that_a_fold_fails_on_is_isolated_and_parked_alone(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1")
    append(runtime, *(event() for _ in range(40)), poison, *(event() for _ in range(40)))
    drain_all(with_projections(runtime, *in_place(failing(poison["id"]))))
    assert open_reasons(runtime) == ["fold_failed"]
    assert letters(runtime)[0].event_id == poison["id"]
    assert "projection project failed with KeyError" in letters(runtime)[0].detail
    assert totals(runtime) == {"read": 81, "applied": 80, "duplicates": 0, "dead_lettered": 1, "lost": 0}


def test_a_poison_event_at_the_very_start_takes_nobody_with_it(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1")
    append(runtime, poison, event("watchdog.toggled.v1"), event("watchdog.toggled.v1"))
    drain_all(with_projections(runtime, *in_place(failing(poison["id"]))))
    assert [letter.event_id for letter in letters(runtime)] == [poison["id"]]
    assert totals(runtime)["applied"] == 2


def test_suspicion_never_passes_to_the_next_event(runtime: Runtime) -> None:
    poison = event("watchdog.toggled.v1")
    append(runtime, poison, event("watchdog.toggled.v1"), event("watchdog.toggled.v1"))
    broken = with_projections(runtime, *in_place(failing(poison["id"])))
    slow = Drainer(broken, HOME, pace=BatchSize(count=1))
    for _ in range(2):
        with pytest.raises(FoldError) as caught:
            slow.step()
        slow.blame(caught.value)
    drain_all(broken)  # another drain parks it meanwhile
    append(runtime, event("watchdog.toggled.v1"))
    while not slow.step():
        pass
    assert [letter.event_id for letter in letters(runtime)] == [poison["id"]]
    assert totals(runtime)["applied"] == 3


@pytest.mark.parametrize("part", ["key", "load", "dump", "new"])
def test_any_part_of_a_projection_that_fails_is_held_against_the_event(runtime: Runtime, part: str) -> None:
    append(runtime, event("project.created.v1"))
    drain_all(runtime)
    where = "11111111-1111-4111-8111-111111111111" if part == "new" else PROJECT
    poison = event("project.updated.v1", projectid=where, time=time_text(NOW_US))
    append(runtime, event(), poison, event())

    def fails(*arguments: Any) -> Any:
        if part != "key" or arguments[0].id == poison["id"]:
            raise KeyError("bug")
        return project_key(*arguments)

    parts: dict[str, Any] = {part: fails}
    drain_all(with_projections(runtime, *in_place(replace(project.projection, **parts))))
    assert [letter.event_id for letter in letters(runtime)] == [poison["id"]]
    assert totals(runtime)["applied"] == 3


def test_a_release_that_fails_for_most_tenants_parks_next_to_nothing(runtime: Runtime) -> None:
    def fails(_row: Any, _event: Any) -> Any:
        raise KeyError("a bad release")

    tenants = [f"t{number}" for number in range(60)]
    append(runtime, *(event("watchdog.toggled.v1", tenantid=tenant) for tenant in tenants))
    broken = with_projections(runtime, *in_place(replace(project.projection, fold=fails)))
    shared = CircuitBreaker()
    for _ in range(3):
        for partition in range(4):
            run(Drainer(broken, partition, breaker=shared), Lease(runtime.queue.connection, partition), budget_s=5)
    assert totals(runtime) == {"read": 1, "applied": 0, "duplicates": 0, "dead_lettered": 1, "lost": 0}
    assert str(circuit_breaker.read(runtime.queue.connection)).endswith("projection project failed with KeyError")
    assert any("breaker is open" in problem for problem in read_status(runtime).problems())
    runtime.queue.connection.delete(*(f"projector:drain-lease:{{{partition}}}" for partition in range(4)))
    drain_all(runtime)  # the release is mended
    assert totals(runtime)["applied"] == 59


def test_one_tenants_poison_cannot_open_the_breaker(runtime: Runtime) -> None:
    made = [event("watchdog.toggled.v1") for _ in range(5)]
    append(runtime, *made, event(), *(event(tenantid=f"t{number}") for number in range(5)))
    poison = {each["id"] for each in made}

    def fold(row: project.Project, each: Any) -> project.Project:
        if each.id in poison:
            raise KeyError("bug")
        return project.fold(row, each)

    drain_all(with_projections(runtime, *in_place(replace(project.projection, fold=fold))))
    assert {letter.event_id for letter in letters(runtime)} == poison
    assert totals(runtime)["applied"] == 6


def test_a_time_beyond_the_year_9999_is_in_the_future_and_stops_nobody(runtime: Runtime) -> None:
    append(runtime, event(), event(time="9999-12-31T23:59:59-23:59"), event())
    drain_all(runtime)
    assert open_reasons(runtime) == ["time_in_future"]
    assert totals(runtime)["applied"] == 2


def test_what_is_the_future_is_decided_by_the_entrys_own_id_not_by_who_reads_it_when(runtime: Runtime) -> None:
    key = f"events:{{{HOME}}}"
    early = [NOW_MS - 3_600_000, NOW_MS - 3_599_999]  # the first is a batch alone, the others are one
    for at_ms in (*early, NOW_MS):
        runtime.stream.redis.xadd(key, {"event": body(event())}, id=f"{at_ms}-0")
    drain_all(runtime)
    assert sorted((letter.position.ms, letter.reason) for letter in letters(runtime)) == [
        (at_ms, "time_in_future") for at_ms in early
    ]
    assert totals(runtime)["applied"] == 1


def test_an_entry_id_beyond_63_bits_stops_nobody(runtime: Runtime) -> None:
    key = f"events:{{{HOME}}}"
    for id_, raw in (
        ("9223372036854776-5", b"bad"),
        (f"{2**63}-{2**64 - 1}", body(event())),
        (f"{2**64 - 2}-7", b"bad"),
    ):
        runtime.stream.redis.xadd(key, {"event": raw}, id=id_)
    drain_all(runtime)
    assert checkpoints(runtime)[HOME].position == Position(2**64 - 2, 7)
    assert totals(runtime) == {"read": 3, "applied": 1, "duplicates": 0, "dead_lettered": 2, "lost": 0}
    runtime.stream.redis.xadd(key, {"event": body(event())})
    drain_all(runtime)
    assert totals(runtime)["applied"] == 2
    assert max(letter.position for letter in letters(runtime)) == Position(2**64 - 2, 7)


def test_a_letter_of_an_event_that_is_applied_does_not_open_again(runtime: Runtime) -> None:
    made = event()
    append(runtime, made)
    drain_all(runtime)
    append_raw(runtime, (HOME + 1) % 4, body(made), body(made | {"extra": 1}))
    drain_all(runtime)
    assert [letter.state for letter in letters(runtime)] == ["applied", "open"]
    append_raw(runtime, (HOME + 1) % 4, body(made))
    drain_all(runtime)
    assert sorted((letter.state, letter.times_seen) for letter in letters(runtime)) == [("applied", 2), ("open", 1)]


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_a_stray_event_applied_at_home_at_the_same_moment_leaves_no_open_letter(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = event()
    append(runtime, made)
    append_raw(runtime, (HOME + 1) % 4, body(made))
    at_home, astray = threading.Event(), threading.Event()
    advance, claim = checkpoint.advance, checkpoint.claim

    def advance_slowly(connection: Connection, to: Checkpoint) -> None:
        advance(connection, to)
        if to.partition == HOME:
            at_home.set()
            assert astray.wait(20)
            wait_until(lambda: _waits_for_a_lock(runtime), "the other waits for the claim")

    def claim_loudly(*arguments: Any) -> Any:
        astray.set()
        return claim(*arguments)

    monkeypatch.setattr(checkpoint, "advance", advance_slowly)
    home = threading.Thread(target=Drainer(runtime, HOME).step)
    home.start()
    assert at_home.wait(20)
    monkeypatch.setattr(checkpoint, "claim", claim_loudly)
    Drainer(runtime, (HOME + 1) % 4).step()
    home.join()
    assert [letter.state for letter in letters(runtime)] == ["applied"]
    assert totals(runtime)["applied"] == 1


def _waits_for_a_lock(runtime: Runtime) -> bool:
    with runtime.reader.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def test_an_empty_field_keeps_its_empty_bytes(runtime: Runtime) -> None:
    append_raw(runtime, HOME, b"")
    drain_all(runtime)
    (letter,) = letters(runtime)
    assert (letter.reason, letter.body, letter.body_length) == ("not_json", b"", 0)


def test_large_entries_make_the_next_batch_smaller(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "BYTES_MAX", 200_000)
    append_raw(runtime, HOME, *[b"x" * 20_000] * 40)
    drainer = Drainer(runtime, HOME)
    drainer.step()
    assert drainer.pace.count <= 10
    while not drainer.step():
        assert drainer.pace.count <= 10
    assert totals(runtime)["dead_lettered"] == 40


def with_memory_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch, entries: int) -> list[int]:
    """Let no more entries be read at once; returns, as it grows, how many each read that failed was to bring."""
    read_from, failed = Stream.read_from, list[int]()

    def call(stream: Stream, partition: int, position: Position, count: int, other: Position) -> StreamSlice:
        if (behind := count - (position != START)) > entries:
            failed.append(behind)
            raise MemoryError
        return read_from(stream, partition, position, count, other)

    monkeypatch.setattr(Stream, "read_from", call)
    append(runtime, *(event() for _ in range(300)))
    return failed


@pytest.mark.parametrize(("entries", "too_many"), [(1, [64, 32, 16, 8, 4, 2]), (30, [64, 32])])
def test_where_memory_stays_short_a_batch_is_halved_until_it_fits_and_the_next_are_no_larger(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch, entries: int, too_many: list[int]
) -> None:
    failed = with_memory_for(runtime, monkeypatch, entries)
    run(Drainer(runtime, HOME), Lease(runtime.queue.connection, HOME), budget_s=60)
    assert (totals(runtime)["applied"], failed) == (300, too_many)


def test_an_entry_that_does_not_fit_alone_is_waited_for(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = with_memory_for(runtime, monkeypatch, entries=0)
    drainer = Drainer(runtime, HOME, pace=BatchSize(count=1))
    run(drainer, Lease(runtime.queue.connection, HOME), budget_s=2)
    assert 1 <= len(failed) < 6
    assert drainer.pace.waits_in_a_row == len(failed)


def test_the_steps_down_to_an_entry_that_does_not_fit_make_its_first_wait_no_longer() -> None:
    short = BatchSize(count=batch_size.ENTRIES_MAX)
    while short.take_on_less():
        assert short.failed_in_a_row <= batch_size.NARROWING_STEPS_MAX
    assert short.count == 1
    assert short.back_off_s() <= batch_size.BACK_OFF_FIRST_S


def test_after_a_while_memory_is_believed_to_be_there_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr(batch_size, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    short, done = BatchSize(count=16), StreamSlice([], StreamEnd(None, 0, 0))
    assert short.take_on_less()
    assert (short.count, short.count_after(done)) == (8, 8)
    now_s[0] = batch_size.MEMORY_SHORT_S
    assert short.count_after(done) == 8 * 8 * batch_size.FASTER


@pytest.mark.parametrize("error", [MemoryError(), OSError("disk"), ConnectionError(), TimeoutError()])
def test_the_worlds_errors_park_nothing_even_out_of_a_fold(runtime: Runtime, error: Exception) -> None:
    failures = iter([error] * 12)

    def fold(row: project.Project, made: Any) -> project.Project:
        if (failure := next(failures, None)) is not None:
            raise failure
        return project.fold(row, made)

    append(runtime, event("watchdog.toggled.v1"))
    world = with_projections(runtime, replace(project.projection, fold=fold))
    for _ in range(12):
        drainer = Drainer(world, HOME, pace=BatchSize(count=1))
        run(drainer, Lease(runtime.queue.connection, HOME), budget_s=0.2)
        runtime.stream.redis.delete(f"projector:drain-lease:{{{HOME}}}")
    drain_all(world)
    assert letters(runtime) == []
    assert totals(runtime)["applied"] == 1


def test_a_database_that_is_away_parks_nothing(runtime: Runtime) -> None:
    append(runtime, event())
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    same_worker = BatchSize(count=1)  # it remembers whom it suspects
    for _ in range(3):
        away = Drainer(replace(runtime, writer=nowhere), HOME, same_worker)
        run(away, Lease(runtime.queue.connection, HOME), budget_s=0.5)
        runtime.stream.redis.delete(f"projector:drain-lease:{{{HOME}}}")
    run(Drainer(runtime, HOME, same_worker), Lease(runtime.queue.connection, HOME))
    assert letters(runtime) == []
    assert totals(runtime)["applied"] == 1


def test_a_stream_deleted_and_filled_again_starts_a_new_epoch(runtime: Runtime) -> None:
    made = [event() for _ in range(5)]
    append(runtime, *made)
    drain_all(runtime)
    runtime.stream.redis.delete(f"events:{{{HOME}}}")
    append(runtime, *made[:2], event())
    drain_all(runtime)
    at = checkpoints(runtime)[HOME]
    assert (at.epoch, at.read, at.applied, at.duplicates, at.lost) == (1, 8, 6, 2, 0)


def test_a_stream_restored_older_is_noticed_even_when_its_ids_overtake(runtime: Runtime) -> None:
    key = f"events:{{{HOME}}}"
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
    at = checkpoints(runtime)[HOME]
    assert (at.epoch, at.applied, at.duplicates, at.position) == (1, 5, 1, Position(NOW_MS + 3000, 0))


@pytest.mark.parametrize("with_checkpoint_entry", [True, False])
def test_what_redis_lost_unread_is_counted_and_the_rest_goes_on(runtime: Runtime, with_checkpoint_entry: bool) -> None:
    key = f"events:{{{HOME}}}"
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
    at = checkpoints(runtime)[HOME]
    assert (at.applied, at.lost, at.position) == (6, 2, Position(NOW_MS + 8, 0))
    end = runtime.stream.ends()[HOME]
    assert at.added_offset + end.added == at.read + at.lost


def test_a_stream_emptied_unread_is_counted_at_once(runtime: Runtime) -> None:
    key = f"events:{{{HOME}}}"
    append(runtime, *(event() for _ in range(3)))
    drain_all(runtime)
    append(runtime, *(event() for _ in range(5)))
    runtime.stream.redis.xtrim(key, maxlen=0, approximate=False)
    assert drainer.needs_drain(checkpoints(runtime)[HOME], runtime.stream.ends()[HOME])
    assert (read_status(runtime).partitions[HOME].lost, read_status(runtime).partitions[HOME].in_flight) == (5, 0)
    drain_all(runtime)
    assert totals(runtime) == {"read": 3, "applied": 3, "duplicates": 0, "dead_lettered": 0, "lost": 5}
    assert not drainer.needs_drain(checkpoints(runtime)[HOME], runtime.stream.ends()[HOME])
    append(runtime, event())
    drain_all(runtime)
    assert totals(runtime) == {"read": 4, "applied": 4, "duplicates": 0, "dead_lettered": 0, "lost": 5}


def assert_law(runtime: Runtime) -> None:
    """docs/reference/events.md#guarantees, G1."""
    home = read_status(runtime).partitions[HOME]
    assert home.read == home.applied + home.duplicates + home.dead_lettered
    assert home.added == home.read + home.in_flight + home.lost
    assert home.in_flight >= 0


def assert_all_is_read(runtime: Runtime) -> None:
    """What the law says is no longer in flight does not wait in the stream either."""
    home = read_status(runtime).partitions[HOME]
    assert home.in_flight == 0
    assert runtime.stream.redis.xrange(f"events:{{{HOME}}}", min=f"({home.position}") == []
    assert not drainer.needs_drain(checkpoints(runtime)[HOME], runtime.stream.ends()[HOME])


class Stranger:
    """Somebody who tampers with a stream: 10 entries are read, 20 more were seen waiting, and then things happen."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.redis = runtime.stream.redis
        self.key = f"events:{{{HOME}}}"
        self.add(*range(10))
        drain_all(runtime)
        self.add(*range(10, 30))
        drainer = Drainer(runtime, HOME, pace=BatchSize(count=1))
        drainer.step()
        assert checkpoints(runtime)[HOME].read == 11

    def add(self, *numbers: int) -> None:
        for number in numbers:
            self.redis.xadd(self.key, {"event": body(event())}, id=f"{NOW_MS + number}-0")

    def remove(self, *numbers: int) -> None:
        self.redis.xdel(self.key, *(f"{NOW_MS + number}-0" for number in numbers))

    def set_back_to(self, count: int) -> None:
        """Leave the first entries as an older state of Redis has them: its counter goes back too."""
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
def test_what_was_seen_and_is_gone_is_counted_whatever_happened_to_the_stream(
    runtime: Runtime, tamper: Callable[[Stranger], Any], read: int, lost: int, epoch: int
) -> None:
    stranger = Stranger(runtime)
    tamper(stranger)
    assert_law(runtime)
    drain_all(runtime)
    at = checkpoints(runtime)[HOME]
    assert (at.read, at.lost, at.epoch) == (read, lost, epoch)
    assert_law(runtime)
    assert_all_is_read(runtime)
    stranger.add(1000)
    drain_all(runtime)
    after = checkpoints(runtime)[HOME]
    assert (after.lost, after.position) == (lost, Position(NOW_MS + 1000, 0))
    assert_law(runtime)
    assert_all_is_read(runtime)


def test_another_stream_that_is_empty_rings_for_nobody(runtime: Runtime) -> None:
    key = f"events:{{{HOME}}}"
    append(runtime, *(event() for _ in range(5)))
    drain_all(runtime)
    runtime.stream.redis.delete(key)
    runtime.stream.redis.xdel(key, str(append(runtime, event())[0].position))
    drain_all(runtime)
    at = checkpoints(runtime)[HOME]
    assert not drainer.needs_drain(at, runtime.stream.ends()[HOME])
    append(runtime, event())
    drain_all(runtime)
    assert totals(runtime)["applied"] == 6


def test_of_two_who_settle_a_loss_at_the_same_place_one_is_too_late(runtime: Runtime) -> None:
    append(runtime, event())
    drain_all(runtime)
    slow, fast = Drainer(runtime, HOME), Drainer(runtime, HOME)
    append(runtime, event())
    runtime.stream.redis.xtrim(f"events:{{{HOME}}}", maxlen=0, approximate=False)
    prepared = slow.intake.take(checkpoints(runtime)[HOME])
    assert prepared is not None
    append(runtime, event())
    runtime.stream.redis.xtrim(f"events:{{{HOME}}}", maxlen=0, approximate=False)
    fast.step()
    with pytest.raises(StaleClaimError, match=r"2 lost, not at .* 0 lost"):
        apply(runtime.writer, PROJECTIONS, prepared)
    assert totals(runtime) == {"read": 1, "applied": 1, "duplicates": 0, "dead_lettered": 0, "lost": 2}


def test_a_tail_deleted_unread_is_counted_without_another_entry(runtime: Runtime) -> None:
    key = f"events:{{{HOME}}}"
    ids = [runtime.stream.redis.xadd(key, {"event": body(event())}) for _ in range(3)]
    drain_all(runtime)
    gone: Any = runtime.stream.redis.xadd(key, {"event": body(event())})
    runtime.stream.redis.xdel(key, gone)
    assert drainer.needs_drain(checkpoints(runtime)[HOME], runtime.stream.ends()[HOME])
    drain_all(runtime)
    at = checkpoints(runtime)[HOME]
    assert (at.applied, at.lost, str(at.position).encode()) == (3, 1, ids[-1])
    assert not drainer.needs_drain(at, runtime.stream.ends()[HOME])


def test_draining_an_empty_stream_changes_nothing(runtime: Runtime) -> None:
    before = checkpoints(runtime)
    drain_all(runtime)
    assert checkpoints(runtime) == before


def test_the_hint_says_how_far_a_partition_is_projected(runtime: Runtime) -> None:
    *_, last = append(runtime, event(), event())
    drain_all(runtime)
    progress = runtime.stream.projected([HOME])[HOME]
    assert (progress.position, progress.entries) == (last.position, 2)
    assert runtime.stream.redis.get(f"events:{{{HOME}}}:projected") == str(last.position).encode()


def test_a_drain_that_is_out_of_time_leaves_the_rest_and_frees_the_lease(runtime: Runtime) -> None:
    append(runtime, *(event() for _ in range(300)))
    run(Drainer(runtime, HOME), Lease(runtime.queue.connection, HOME), budget_s=0.0)
    assert totals(runtime)["read"] == 0
    assert Lease(runtime.queue.connection, HOME).take()


def test_what_arrives_while_the_lease_is_freed_is_drained_too(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    release, late = Lease.release, [event()]

    def release_late(lease: Lease) -> None:
        append(runtime, *(late.pop() for _ in tuple(late)))
        release(lease)

    append(runtime, event())
    monkeypatch.setattr(Lease, "release", release_late)
    run(Drainer(runtime, HOME), Lease(runtime.queue.connection, HOME))
    assert totals(runtime)["applied"] == 2


def test_a_drain_without_the_lease_does_nothing(runtime: Runtime) -> None:
    append(runtime, event())
    assert Lease(runtime.queue.connection, HOME, "another").take()
    run(Drainer(runtime, HOME), Lease(runtime.queue.connection, HOME, "mine"))
    assert totals(runtime)["read"] == 0


def test_a_drain_that_loses_its_lease_stops_before_the_next_batch(runtime: Runtime) -> None:
    class Robbed(Drainer):
        def step(self, *, look_ahead: bool = False) -> bool:
            dry = super().step(look_ahead=look_ahead)
            runtime.queue.connection.set(f"projector:drain-lease:{{{HOME}}}", "a stranger's")
            return dry

    append(runtime, *(event() for _ in range(10)))
    run(Robbed(runtime, HOME, pace=BatchSize(count=1)), Lease(runtime.queue.connection, HOME))
    assert totals(runtime)["read"] == 1
    assert runtime.queue.connection.get(f"projector:drain-lease:{{{HOME}}}") == b"a stranger's"


def looking_ahead(runtime: Runtime) -> Drainer:
    """Return a drain that has applied two of 400 events and has read the 256 behind them already."""
    append(runtime, *(event() for _ in range(400)))
    drainer = Drainer(runtime, HOME, pace=BatchSize(count=2))
    assert not drainer.step(look_ahead=True)
    assert drainer.intake._ahead is not None
    return drainer


def test_what_was_read_ahead_is_applied_next_and_read_only_once(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    drainer = looking_ahead(runtime)
    monkeypatch.delattr(Stream, "read_from")
    drainer.step()
    assert totals(runtime) == {"read": 258, "applied": 258, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_what_was_read_ahead_is_thrown_away_if_another_drain_was_there_meanwhile(runtime: Runtime) -> None:
    drainer = looking_ahead(runtime)
    Drainer(runtime, HOME, pace=BatchSize(count=3)).step()
    with pytest.raises(StaleClaimError):
        drainer.step(look_ahead=True)
    while not drainer.step(look_ahead=True):
        pass
    assert totals(runtime) == {"read": 400, "applied": 400, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_what_was_read_ahead_is_thrown_away_if_the_batch_before_it_fails(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    drainer = looking_ahead(runtime)
    with monkeypatch.context() as patch:
        patch.delattr(checkpoint, "advance")
        with pytest.raises(AttributeError):
            drainer.step(look_ahead=True)
    while not drainer.step(look_ahead=True):
        pass
    assert totals(runtime) == {"read": 400, "applied": 400, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_a_stream_replaced_between_reading_ahead_and_applying_begins_a_new_epoch(runtime: Runtime) -> None:
    drainer = looking_ahead(runtime)
    runtime.stream.redis.delete(f"events:{{{HOME}}}")
    append(runtime, *(event() for _ in range(5)))
    while not drainer.step(look_ahead=True):
        pass
    assert_all_is_read(runtime)
    assert totals(runtime) == {"read": 263, "applied": 263, "duplicates": 0, "dead_lettered": 0, "lost": 142}
    assert checkpoints(runtime)[HOME].epoch == 1


@pytest.mark.parametrize(("count", "failed"), [(1, 0), (2, 1)], ids=["the first entry", "after a failure"])
def test_nothing_is_read_ahead_where_two_batches_may_be_too_many_for_the_memory(
    runtime: Runtime, count: int, failed: int
) -> None:
    append(runtime, *(event() for _ in range(300)))
    drainer = Drainer(runtime, HOME, pace=BatchSize(count, failed_in_a_row=failed))
    assert not drainer.step(look_ahead=True)
    assert drainer.intake._ahead is None
    assert not drainer.step(look_ahead=True)
    assert drainer.intake._ahead is not None


def test_an_outage_met_while_reading_ahead_keeps_nobody_from_applying_what_is_at_hand(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(runtime, *(event() for _ in range(30)))
    drainer = Drainer(runtime, HOME, pace=BatchSize(count=2))
    read_from, calls = Stream.read_from, itertools.count(1)

    def failing_after_the_first(*arguments: Any, **options: Any) -> StreamSlice:
        if next(calls) > 1:
            raise redis.ConnectionError("gone")
        return read_from(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "read_from", failing_after_the_first)
        drainer.step(look_ahead=True)
        assert totals(runtime)["applied"] == 2
        with pytest.raises(redis.ConnectionError, match="gone"):
            drainer.step(look_ahead=True)
    while not drainer.step(look_ahead=True):
        pass
    assert totals(runtime) == {"read": 30, "applied": 30, "duplicates": 0, "dead_lettered": 0, "lost": 0}


def test_what_is_read_ahead_is_judged_while_postgresql_is_waited_for(runtime: Runtime) -> None:
    drainer = looking_ahead(runtime)
    look = drainer.intake._ahead
    assert look is not None
    waits = runtime.writer.dialect.name == "postgresql"  # SQLite is worked on by this very thread
    assert bool(look.events) is waits
    assert len(look.events) + len(look.unjudged(1000)) == 256


def test_what_fails_while_the_next_entries_are_judged_fails_that_batch_once_and_nothing_is_lost(
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

    monkeypatch.setattr(batch_reader, "decode_together", failing_once)
    run(Drainer(runtime, HOME, pace=BatchSize(count=2)), Lease(runtime.queue.connection, HOME), budget_s=10)
    assert failed
    assert totals(runtime) == {"read": 200, "applied": 200, "duplicates": 0, "dead_lettered": 0, "lost": 0}


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batch_sizes_stay_within_their_bounds(sizes: list[int]) -> None:
    pace_ = BatchSize()
    shared = bytes(10**7)
    entries = [Entry(b"%d-0" % number, [b"event", shared[:size]]) for number, size in enumerate(sizes)]
    for _ in range(12):
        pace_.speed_up(pace_.count_after(StreamSlice(entries, StreamEnd(None, 0, 0))))
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
