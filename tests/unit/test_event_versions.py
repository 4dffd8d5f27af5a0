"""Event versions: an older one is validated by its own rules and folded as if it had been written in the newest."""

from collections.abc import Iterator
from typing import Any

import pytest
from rq.timeouts import BaseTimeoutException, JobTimeoutException

from event_stream.errors import InvalidEventError, Reason
from event_stream.events import decoding
from event_stream.events.decoding import decode
from event_stream.events.event_types import TENANT_LEVEL, TYPES, WatchdogToggled, version_of
from event_stream.events.upcasting import UPCASTERS, types_upcast_to, upcast
from projections.error_classes import ErrorClass, classify_error
from projections.folding.projection import FoldError, upcast_all
from projections.read_models.registry import PROJECTIONS
from tests.support.events import DATA, body, event, mixed
from tests.support.later_release import WatchdogEvaluatedV2, WatchdogToggledV3, later_release, native

EVENTS = list(mixed(400, tenants=1, projects=1))


@pytest.fixture
def later() -> Iterator[None]:
    with later_release():
        yield


def reason_of(made: dict[str, Any]) -> tuple[Reason, str]:
    with pytest.raises(InvalidEventError) as caught:
        decode(body(made))
    return caught.value.reason, caught.value.detail


def test_every_version_but_the_newest_has_an_upcaster() -> None:
    newest: dict[str, int] = {}
    for name, version in map(version_of, TYPES):
        assert version > 0
        newest[name] = max(version, newest.get(name, 0))
    assert set(UPCASTERS) == {type_ for type_ in TYPES if version_of(type_)[1] < newest[version_of(type_)[0]]}
    assert set(TYPES) == {f"{name}.v{number + 1}" for name, version in newest.items() for number in range(version)}


def test_every_upcaster_accepts_the_documented_example_of_its_version() -> None:
    for type_ in DATA:
        assert types_upcast_to({type(upcast(decode(body(event(type_)))).data)}) >= {type_}


def test_either_all_versions_of_a_type_are_tenant_level_or_none() -> None:
    names = {version_of(type_)[0] for type_ in TENANT_LEVEL}
    assert {type_ for type_ in TYPES if version_of(type_)[0] in names} == TENANT_LEVEL


@pytest.mark.usefixtures("later")
def test_a_fold_receives_an_older_version_as_the_newest_one() -> None:
    changed = 0
    for made in EVENTS:
        one, *others = (upcast(decode(body(native(made, version)))) for version in (1, 2, 3))
        assert all(each._replace(type=one.type, body=one.body) == one for each in others)
        assert (type(one.data) is TYPES[one.type]) is (one.type not in UPCASTERS)
        changed += isinstance(one.data, WatchdogEvaluatedV2 | WatchdogToggledV3)
    assert changed > 150


@pytest.mark.usefixtures("later")
def test_type_and_bytes_stay_as_received() -> None:
    made = event("watchdog.toggled.v1")
    folded = upcast(decode(body(made)))
    assert folded.data == WatchdogToggledV3(mode="watching")  # two steps away
    assert (folded.type, folded.body) == ("watchdog.toggled.v1", body(made))


@pytest.mark.usefixtures("later")
def test_a_version_is_validated_by_its_own_rules() -> None:
    v1 = event("watchdog.evaluated.v1", {"alertFired": True, "suppressedReason": "dedup"})
    reason, detail = reason_of(v1)
    assert reason is Reason.INVALID_DATA
    assert "a fired alert has suppressedReason null" in detail
    for version, member in ((1, "enabled"), (2, "state"), (3, "mode")):
        empty = event("watchdog.toggled.v1") | {"type": f"watchdog.toggled.v{version}", "data": {}}
        assert reason_of(empty) == (Reason.INVALID_DATA, f"data.{member}: Field required")


@pytest.mark.usefixtures("later")
def test_a_valid_event_of_any_version_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(decoding, "_decode_with_reason")
    assert all(decode(body(native(made, version))) for made in EVENTS for version in (1, 2, 3))


def test_events_without_a_later_version_are_unchanged() -> None:
    decoded = [each for each in map(decode, map(body, EVENTS)) if each.type not in UPCASTERS]
    assert len(decoded) > 100
    assert all(one is other for one, other in zip(upcast_all(decoded), decoded, strict=True))


@pytest.mark.parametrize(
    ("type_", "known"), [("watchdog.evaluated.v2", 1), ("watchdog.evaluated.v9", 1), ("project.created.v999999999", 1)]
)
def test_the_error_for_a_later_version_names_the_known_versions_and_the_action(type_: str, known: int) -> None:
    reason, detail = reason_of(event() | {"type": type_})
    assert reason is Reason.UNKNOWN_TYPE
    assert detail == (
        f"type: {type_} is of a later release (this one supports versions up to v{known}); upgrade the workers,"
        " then run `projector dead-letters replay --reason unknown_type`"
    )


@pytest.mark.usefixtures("later")
def test_the_error_names_the_newest_known_version() -> None:
    assert "supports versions up to v3); upgrade" in reason_of(event() | {"type": "watchdog.toggled.v4"})[1]
    assert "supports versions up to v2); upgrade" in reason_of(event() | {"type": "watchdog.evaluated.v4"})[1]


@pytest.mark.parametrize(
    "type_",
    ["x.y.v2", "watchdog.evaluated", "watchdog.evaluated.v0", "watchdog.evaluated.v02", "watchdog.evaluated.v٢", ".v2"],
)
def test_an_unknown_type_is_not_reported_as_a_later_version(type_: str) -> None:
    assert "is not an event type of this release" in reason_of(event() | {"type": type_})[1]


def test_a_version_with_very_many_digits_is_an_unknown_type() -> None:
    assert reason_of(event() | {"type": "watchdog.evaluated.v" + "9" * 5000})[0] is Reason.UNKNOWN_TYPE


def test_a_projection_reads_every_version_of_its_types() -> None:
    before = {each.name: types_upcast_to(each.reads) for each in PROJECTIONS}
    assert frozenset().union(*before.values()) == set(TYPES)
    with later_release() as projections:
        after = {each.name: types_upcast_to(each.reads) for each in projections}
    later = {
        "watchdog.toggled.v1": {"watchdog.toggled.v2", "watchdog.toggled.v3"},
        "watchdog.evaluated.v1": {"watchdog.evaluated.v2"},
    }
    assert {name: after[name] - before[name] for name in after} == {
        name: set().union(*(later.get(type_, set()) for type_ in types)) for name, types in before.items()
    }
    assert all(after[name] >= before[name] for name in after)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (KeyError("secret"), ErrorClass.INTERNAL),
        (ValueError("secret"), ErrorClass.INTERNAL),
        (MemoryError(), ErrorClass.EXTERNAL),
        (JobTimeoutException(), ErrorClass.EXTERNAL),
    ],
)
def test_a_failing_upcaster_is_handled_like_a_failing_fold(error: Exception, fault: ErrorClass) -> None:
    def fails(_old: Any) -> Any:
        raise error

    with later_release({"watchdog.toggled.v2": fails}):
        decoded = decode(body(event("watchdog.toggled.v1")))  # it is valid in any case
        with pytest.raises(FoldError) as caught:
            upcast_all([decode(body(event())), decoded])
    assert str(caught.value) == f"the upcaster of watchdog.toggled.v1 failed with {type(error).__name__}"
    assert caught.value.event is decoded
    assert classify_error(caught.value, (BaseTimeoutException,)) is fault


@pytest.mark.parametrize("wrong", [None, WatchdogToggled(enabled=True), WatchdogToggledV3(mode="off")])
def test_an_upcaster_that_returns_an_unknown_type_is_an_error_not_an_unread_event(wrong: Any) -> None:
    with (
        later_release({"watchdog.toggled.v1": lambda _old: wrong}),
        pytest.raises(FoldError, match=r"watchdog.toggled.v1 failed with TypeError"),
    ):
        upcast_all([decode(body(event("watchdog.toggled.v1")))])
