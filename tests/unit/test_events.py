"""Every rule of docs/reference/events.md about one event: envelope, types, and reasons that need no database."""

import json
from contextlib import suppress
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic.alias_generators import to_snake

from event_stream.errors import InvalidEventError, Reason
from event_stream.events import decoding
from event_stream.events.decoding import Arrival, decode, decode_all, decode_batch
from event_stream.events.envelope import claimed_identity
from event_stream.events.event import partition_of
from event_stream.events.event_types import TENANT_LEVEL, TYPES
from event_stream.events.json_body import describe_value
from event_stream.events.json_equality import equal_json
from event_stream.events.log_decoding import decode_logged
from event_stream.events.rfc3339 import format_time, parse_time
from tests.support.events import DATA, INPUTS, NOW_US, PROJECT, TENANT, body, event, mixed, spelled_freely
from tests.support.oracle import identity

HERE = Arrival(partition_of(TENANT, 8), 8, NOW_US // 1000, max_clock_skew_s=300)


def reason_of(raw: bytes, arrival: Arrival | None = HERE) -> tuple[Reason, str]:
    with pytest.raises(InvalidEventError) as caught:
        decode(raw, arrival)
    return caught.value.reason, caught.value.detail


def each(attribute: str, *values: Any) -> list[tuple[str, Any]]:
    return [(attribute, value) for value in values]


def data(type_: str, member: str, *values: Any) -> list[tuple[str, dict[str, Any]]]:
    return [(type_, {member: value}) for value in values]


@pytest.mark.parametrize("type_", TYPES)
def test_every_type_is_accepted_as_the_contract_shows_it(type_: str) -> None:
    decoded = decode(body(event(type_)), HERE)
    assert (decoded.type, decoded.tenant_id) == (type_, TENANT)
    assert decoded.project_id == (None if type_ in TENANT_LEVEL else PROJECT)


def test_the_types_are_those_of_the_contract() -> None:
    assert set(TYPES) == set(DATA)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        *each("specversion", "0.3", "1", 1.0, None),
        *each("id", "", "x" * 129, 7, None, [PROJECT]),
        *each("source", "", "a b", "x" * 256, "/ü", "%zz", "a#b#c", 1, None),
        *each("type", "", 1, None),
        *each("tenantid", "", "a b", "x" * 65, "ténant", "a/b", 1, None, "a\n"),
        *each("projectid", "", "x", PROJECT.replace("-", ""), f"{{{PROJECT}}}", PROJECT + "\n", 1, None, []),
        *each("data_base64", "e30=", 1),
        *each("data", None, [], "x", 1),
        *each(
            "time",
            "2026-04-25",
            "2026-04-25 14:30:12Z",
            "2026-04-25T14:30:12",
            "20260425T143012Z",
            "2026-W17-6T14:30:12Z",
            "2026-04-25T14:30Z",
            "2026-04-25T14:30:61Z",
            "2026-02-29T14:30:60Z",
            "2026-04-25t14:30z",
            "1969-12-31T23:59:59.999999z",
            "2026-04-25T24:00:00Z",
            "2026-04-25T14:30:12+0200",
            "2026-04-25T14:30:12+24:00",
            "2026-04-25T14:30:12.Z",
            "2026-04-25T14:30:12,5Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "0000-01-01T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "٢٠٢٦-04-25T14:30:12Z",
            1777127412,
            None,
            "",
        ),
    ],
)
def test_a_broken_envelope_rule_is_named_with_its_type_and_length(attribute: str, value: Any) -> None:
    reason, detail = reason_of(body(event(**{attribute: value})))
    assert reason is Reason.NOT_AN_EVENT
    assert detail.startswith(f"{attribute} ({describe_value(value)}): ")


@pytest.mark.parametrize("attribute", ["specversion", "id", "source", "type", "time", "tenantid", "projectid", "data"])
def test_a_missing_attribute_is_named(attribute: str) -> None:
    made = event()
    del made[attribute]
    reason, detail = reason_of(body(made))
    assert reason is Reason.NOT_AN_EVENT
    assert attribute in detail


@pytest.mark.parametrize(
    "accepted",
    [
        {"time": "2026-04-25T14:30:12.1234567890Z"},
        {"time": "2026-04-25T16:30:12-00:00"},
        {"time": "1970-01-01T00:00:00Z"},
        {"time": "2024-02-29T23:59:59.5+23:59"},
        {"source": "urn:x:y"},
        {"source": "https://user@host:1/p%20q?r=s#t"},
        {"source": "x" * 255},
        {"tenantid": "A-z_9.:" + "x" * 57},
        {"tenantid": "acme.eu"},
        {"data_base64": None},
        {"traceparent": "00-abc", "n": 12345678901234567890123, "x": [None, {"a": 1.5}]},
        {"id": "00000000-0000-0000-0000-000000000000"},
        *(
            {"id": id_}
            for id_ in ("x", "7", PROJECT.replace("-", ""), f"{{{PROJECT}}}", PROJECT + "\n", "é" * 128, " ")
        ),
    ],
)
def test_every_event_that_the_contract_allows_is_accepted(accepted: dict[str, Any]) -> None:
    assert decode(body(event(**accepted)))


@pytest.mark.parametrize("type_", sorted(TENANT_LEVEL))
@pytest.mark.parametrize("project", [None, "nonsense", 3])
def test_a_tenant_level_type_ignores_the_project(type_: str, project: Any) -> None:
    assert decode(body(event(type_, projectid=project)), HERE).project_id is None


@pytest.mark.parametrize(
    ("type_", "changes"),
    [
        *data("project.created.v1", "slug", "", "A", "a_b", "x" * 101, "é", 1, None, "a\n"),
        *data("project.created.v1", "name", "", "x" * 256, 1, None),
        ("project.created.v1", {"description": "x" * 1001}),
        *data("project.created.v1", "isDefault", "yes", 1, 0),
        ("project.created.v1", {"llmContext": "x" * 2001}),
        ("project.updated.v1", {"llmContext": 1}),
        *data("project.updated.v1", "slug", "", "A", 1),
        ("project.updated.v1", {"name": ""}),
        *data("log_source.added.v1", "logSourceId", "", "x" * 65, 1, None, "a\x1fb", "\n", "a\x7f", "\x85"),
        ("repo.connected.v1", {"repoId": ""}),
        ("notification_channel.removed.v1", {"channelId": ""}),
        ("support_desk.bound.v1", {"bindingId": ""}),
        *data("watchdog.toggled.v1", "enabled", "true", 1, 0, None),
        *data("analysis.created.v1", "analysisId", "", "x" * 65, 5, None),
        *data("analysis.created.v1", "severity", "urgent", "", 1),
        ("analysis.created.v1", {"trigger": "cron"}),
        *data("watchdog.evaluated.v1", "ruleId", "", "x" * 65, 1, None),
        *data("watchdog.evaluated.v1", "ruleName", "", "x" * 256, None),
        *data("watchdog.evaluated.v1", "passed", 0, "no", None),
        *data("watchdog.evaluated.v1", "alertFired", 1, "yes", None),
        *(("watchdog.evaluated.v1", {"suppressedReason": value, "alertFired": False}) for value in ("other", "", 0)),
        *data("watchdog.evaluated.v1", "severity", "", "HIGH", None),
        *data("watchdog.evaluated.v1", "summary", "x" * 1001, 1, False),
    ],
)
def test_bad_data_is_named_with_its_member(type_: str, changes: dict[str, Any]) -> None:
    reason, detail = reason_of(body(event(type_, changes)))
    assert reason is Reason.INVALID_DATA
    member, value = next(iter(changes.items()))
    assert detail.startswith(f"data.{member} ({describe_value(value)}): ")


@pytest.mark.parametrize("type_", [type_ for type_, data in DATA.items() if data and type_ != "project.updated.v1"])
def test_a_required_member_must_be_present(type_: str) -> None:
    optional = {
        "project.created.v1": {"description", "isDefault", "llmContext"},
        "analysis.created.v1": {"severity", "trigger"},
        "watchdog.evaluated.v1": {"suppressedReason", "summary"},
    }.get(type_, set())
    for member in set(DATA[type_]) - optional:
        made = event(type_)
        made["data"] = {name: value for name, value in DATA[type_].items() if name != member}
        assert reason_of(body(made)) == (Reason.INVALID_DATA, f"data.{member}: Field required")


@pytest.mark.parametrize("empty", [None, "left out"])
def test_optional_members_may_be_null_or_left_out(empty: str | None) -> None:
    members: dict[str, dict[str, Any]] = {
        "project.created.v1": {"description": None, "isDefault": None, "llmContext": None},
        "project.updated.v1": {"slug": None, "name": None, "description": None, "llmContext": None},
        "analysis.created.v1": {"severity": None, "trigger": None},
        "watchdog.evaluated.v1": {"suppressedReason": None, "summary": ""},
    }
    for type_, defaults in members.items():
        made = event(type_)
        for name in defaults:
            made["data"][name] = None
            if empty is not None:
                del made["data"][name]
        decoded = decode(body(made), HERE)
        assert {name: getattr(decoded.data, to_snake(name)) for name in defaults} == defaults
        assert decode_logged(decoded.body, type_) == decoded


@pytest.mark.parametrize("passed", [True, False])
@pytest.mark.parametrize("fired", [True, False])
@pytest.mark.parametrize("suppressed", [None, "cooldown", "daily_cap", "dedup"])
@pytest.mark.parametrize("summary", ["", "spike"])
def test_an_evaluation_has_one_of_three_outcomes(
    passed: bool, fired: bool, suppressed: str | None, summary: str
) -> None:
    raw = body(
        event(
            "watchdog.evaluated.v1",
            {"passed": passed, "alertFired": fired, "suppressedReason": suppressed, "summary": summary},
        )
    )
    valid = (
        (passed and not fired and suppressed is None and summary == "")
        or (not passed and fired and suppressed is None)
        or (not passed and not fired)
    )
    if valid:
        assert decode(raw, HERE)
    else:
        assert reason_of(raw)[0] is Reason.INVALID_DATA


def test_lengths_count_code_points() -> None:
    assert decode(body(event("project.created.v1", {"name": "🚨" * 255})), HERE)
    assert reason_of(body(event("project.created.v1", {"name": "🚨" * 256})))[0] is Reason.INVALID_DATA


def sized(length: int) -> bytes:
    raw = body(event(pad=""))
    return raw.replace(b'"pad": ""', b'"pad": "' + b"x" * (length - len(raw)) + b'"')


def test_the_size_limit_counts_bytes() -> None:
    assert len(sized(65_536)) == 65_536
    assert decode(sized(65_536), HERE)
    assert reason_of(sized(65_537)) == (Reason.TOO_LARGE, "65,537 bytes; at most 65,536 are allowed")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff\xfe",
        b'{"a": "\xff"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"a": "\\udc00\\ud800"}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\\u0000"}',
        b'{"a\\u0000": 1}',
        b'{"a": "\x00"}',
        b'{"a": [{"b": "\\\\\\u0000"}]}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": 1,}',
        b"{'a': 1}",
        b'{"a": 01}',
        b'{"a": 1} x',
        b"[" * 30_000,
        b'{"a": ' * 64 + b"1" + b"}" * 64 + b" ]",
        b"[" * 65 + b"]" * 65,
        b'{"a": ' * 65 + b"1" + b"}" * 65,
        b'{"n": ' + b"9" * 5000 + b"}",
    ],
)
def test_invalid_json_is_refused_as_not_json(raw: bytes) -> None:
    reason, detail = reason_of(raw)
    assert reason is Reason.NOT_JSON
    assert detail


def nested(depth: int) -> bytes:
    return body(event()).replace(b'"data": {', b'"x": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b', "data": {')


def test_the_depth_limit_counts_the_object_itself() -> None:
    assert decode(nested(64), HERE)
    assert reason_of(nested(65)) == (Reason.NOT_JSON, "nested deeper than 64")


def test_a_number_may_be_larger_than_a_float() -> None:
    assert decode(body(event()).replace(b'"data": {', b'"x": -1e400, "data": {'), HERE)


def test_an_escaped_backslash_before_u0000_is_no_u0000() -> None:
    assert decode(body(event(x="\\u0000")), HERE)


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"1", b"null", b"true"])
def test_json_other_than_an_object_is_not_an_event(raw: bytes) -> None:
    assert reason_of(raw)[0] is Reason.NOT_AN_EVENT


def test_the_last_of_repeated_members_counts() -> None:
    raw = body(event()).replace(b'"source": "/test"', b'"source": "", "source": "/last"')
    assert decode(raw, HERE)
    assert reason_of(raw.replace(b'"/last"', b'""'))[0] is Reason.NOT_AN_EVENT


def test_a_tenant_has_one_partition_crc32_as_in_zlib() -> None:
    assert [partition_of(tenant, 1000) for tenant in ("a", "-")] == [0xE8B7BE43 % 1000, 0x97DDB3F8 % 1000]
    wrong = Arrival((HERE.partition + 1) % 8, 8, HERE.now_ms, 300)
    reason, detail = reason_of(body(event()), wrong)
    assert reason is Reason.WRONG_PARTITION
    assert f"belongs to partition {HERE.partition} of 8" in detail


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        ("analysis.created.v2", "type: analysis.created.v2 is of a later release"),
        ("com.example.x.v1", "type: com.example.x.v1 is not an event type of this release"),
        (
            "analysis.created",
            "type (string of 16 characters): is not an event type of this release; types are a name and",
        ),
        ("analysis.created.v1 ", "type (string of 20 characters): is not an event type"),
    ],
)
def test_an_unknown_type_is_named_if_it_has_the_form_of_a_type(type_: str, words: str) -> None:
    reason, detail = reason_of(body(event() | {"type": type_}))
    assert reason is Reason.UNKNOWN_TYPE
    assert detail.startswith(words)


SECRET = "s3cr3t"


@pytest.mark.parametrize("type_", TYPES)
def test_no_message_quotes_the_data_of_an_event(type_: str) -> None:
    made = event(type_)
    wrong = [f"{SECRET}\x1f {SECRET}" * 100, {SECRET: SECRET}, [SECRET], f"{SECRET}\x1f", f"{SECRET} /%", SECRET]
    changed = [made | {attribute: value} for attribute in made for value in wrong]
    changed += [made | {"data": made["data"] | {member: value}} for member in made["data"] for value in wrong]
    details = []
    for raw in (*map(body, changed), SECRET.encode(), b'{"x": ' + SECRET.encode(), b'"%b"' % SECRET.encode()):
        try:
            decode(raw)
        except InvalidEventError as error:
            details.append(str(error))
    assert len(details) > 30
    assert [each for each in details if SECRET in each] == []


def test_the_clock_of_the_entry_decides_whether_a_time_is_in_the_future() -> None:
    at = HERE.now_ms * 1000
    assert decode(body(event(time=format_time(at + 300_000_000))), HERE)
    assert reason_of(body(event(time=format_time(at + 300_000_001))))[0] is Reason.TIME_IN_FUTURE
    assert decode(body(event(time=format_time(at + 300_000_001))))  # logged events were validated before


def test_a_time_beyond_the_year_9999_is_in_the_future() -> None:
    assert reason_of(body(event(time="9999-12-31T23:59:59-23:59")))[0] is Reason.TIME_IN_FUTURE


def test_the_first_reason_in_the_order_of_the_contract_is_given() -> None:
    elsewhere = Arrival((HERE.partition + 1) % 8, 8, HERE.now_ms, 300)
    bad = event(specversion="x", data={}, time="2999-01-01T00:00:00Z") | {"type": "unknown.v1"}
    in_order = [
        (b"[" * 70_000, Reason.TOO_LARGE),
        (b"[" * 100, Reason.NOT_JSON),
        (body(bad), Reason.NOT_AN_EVENT),
        (body(bad := bad | {"specversion": "1.0"}), Reason.WRONG_PARTITION),
    ]
    assert [reason_of(raw, elsewhere)[0] for raw, _ in in_order] == [reason for _, reason in in_order]
    in_order = [
        (body(bad), Reason.UNKNOWN_TYPE),
        (body(bad := bad | {"type": "analysis.created.v1"}), Reason.INVALID_DATA),
        (body(bad | {"data": DATA["analysis.created.v1"]}), Reason.TIME_IN_FUTURE),
    ]
    assert [reason_of(raw)[0] for raw, _ in in_order] == [reason for _, reason in in_order]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-04-25T14:30:12Z", "2026-04-25T14:30:12Z"),
        ("2026-04-25T16:30:12.500+02:00", "2026-04-25T14:30:12.5Z"),
        ("2026-04-25T14:30:12.1234569Z", "2026-04-25T14:30:12.123456Z"),
        ("2026-04-25T14:30:12.000000900Z", "2026-04-25T14:30:12Z"),
        ("2026-01-01T00:30:00+01:00", "2025-12-31T23:30:00Z"),
        ("2026-04-25t14:30:12Z", "2026-04-25T14:30:12Z"),
        ("2026-04-25T14:30:12z", "2026-04-25T14:30:12Z"),
        ("2026-04-25t14:30:12.5z", "2026-04-25T14:30:12.5Z"),
        ("2026-04-25t16:30:12.1234569+02:00", "2026-04-25T14:30:12.123456Z"),
        ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00Z"),
        ("2016-12-31t23:59:60.25z", "2017-01-01T00:00:00.25Z"),
        ("1990-12-31T15:59:60-08:00", "1991-01-01T00:00:00Z"),
        ("1969-12-31T23:59:60Z", "1970-01-01T00:00:00Z"),
    ],
)
def test_times_are_shown_in_utc_with_no_trailing_zeros(text: str, shown: str) -> None:
    assert format_time(parse_time(text)) == shown
    decoded = decode(body(event(time=text)))
    assert (format_time(decoded.time_us), decoded.time) == (shown, text)


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        (b'{"a":1,"b":[1,2]}', b' {"b" : [1, 2], "a": 1.0}', True),
        (b'{"a":1}', b'{"a":true}', False),
        (b'{"a":0}', b'{"a":false}', False),
        (b'{"a":[1,2]}', b'{"a":[2,1]}', False),
        (b'{"a":null}', b"{}", False),
        (b'{"a":123456789012345678901234567890}', b'{"a":123456789012345678901234567891}', False),
        (b'{"a":0.1}', b'{"a":0.10}', True),
        (b'{"a":1e400}', b'{"a":1e401}', False),
        (b'{"a":1e99999999999999999999999}', b'{"a":1e99999999999999999999998}', False),
        (b'{"a":"\\u00e9"}', '{"a":"é"}'.encode(), True),
        (b'{"a":1,"a":2}', b'{"a":2}', True),
    ],
)
def test_equal_content_is_the_same_json_value(one: bytes, other: bytes, equal: bool) -> None:
    assert equal_json(one, other) is equal
    assert equal_json(other, one) is equal


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(values, st.randoms())
def test_neither_order_nor_white_space_matters(value: Any, chance: Any) -> None:
    def shuffled(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: shuffled(node[key]) for key in chance.sample(list(node), len(node))}
        return [shuffled(item) for item in node] if isinstance(node, list) else node

    compact = json.dumps(value, separators=(",", ":")).encode()
    assert equal_json(
        compact, json.dumps(shuffled(value), indent=2, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )


@given(st.binary(max_size=200) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_decoded_or_refused_and_never_crash(raw: bytes) -> None:
    with pytest.raises(InvalidEventError):
        decode(raw, HERE)
    claimed_identity(raw)


# JSON and almost-JSON, inserted into an event.
fragments = st.sampled_from(
    [
        *(
            b"9" * 5000,
            b"1e400",
            b"-1e400",
            b"1E+99999999999",
            b"-0",
            b"0e0",
            b"01",
            b"1.",
            b"+1",
            b"NaN",
            b"-Infinity",
        ),
        *(
            b'"\\ud800"',
            b'"\\u0000"',
            b'"\\u00e9"',
            b'"NaN"',
            b'"\xff"',
            b'"\x01"',
            b'"\\/"',
            b'"\\x"',
            b'""',
            b"null",
            b"true",
        ),
        *(
            b"[1,]",
            b"{}",
            b'{"a":1,"a":2}',
            b"[" * 63 + b"]" * 63,
            b"[" * 64 + b"]" * 64,
            b'{"a":' * 150 + b"1" + b"}" * 150,
        ),
        *(b'"' + b"x" * length + b'"' for length in (64, 65, 255, 256, 1001, 65_536)),
    ]
)


@given(
    st.sampled_from(list(TYPES)),
    st.sampled_from(
        ["x", "id", "source", "type", "time", "tenantid", "projectid", "specversion", "data", "name", "slug"]
    ),
    fragments | values.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["first", "last", "in data"]),
)
@example("project.created.v1", "x", b"NaN", "in data")
@example("project.created.v1", "x", b"Infinity", "last")
@example("project.created.v1", "x", b'"\\u0000"', "in data")
@example("project.created.v1", "x", b"[" * 64 + b"]" * 64, "last")
@example("project.created.v1", "x", b'"' + b"x" * 65_536 + b'"', "last")
@example("support_desk.bound.v1", "projectid", b"7", "last")
@example("project.created.v1", "id", b'"\\u0000"', "first")
def test_the_fast_path_agrees_with_the_rules_applied_one_by_one(
    type_: str, member: str, value: bytes, where: str
) -> None:
    raw, added = body(event(type_)), b'"' + member.encode() + b'": ' + value
    made = {
        "first": b"{" + added + b", " + raw[1:],
        "last": raw[:-1] + b", " + added + b"}",
        "in data": raw.replace(b'"data": {', b'"data": {' + added + (b", " if DATA[type_] else b"")),
    }[where]
    at_once = decoding._decode_fast([made])
    if at_once is not None:
        assert at_once == [decoding._decode_with_reason(made, None)] == [decode_logged(made, at_once[0].type)]
        assert at_once[0].identity == identity(json.loads(made)) == claimed_identity(made)
    else:  # invalid, or U+0000 in a value that the same member replaces further on
        with suppress(InvalidEventError):
            assert (decoded := decode(made)) == decode_logged(made, decoded.type)


spellings = st.fixed_dictionaries(
    {},
    optional={
        "id": st.from_regex(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\n?", fullmatch=True)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=130),
        "source": st.sampled_from(["/a", "/b", "urn:x", "/a%20b", "", "/a b", 1]),
        "projectid": st.from_regex(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\n?", fullmatch=True),
        "tenantid": st.from_regex(r"[A-Za-z0-9._:-]{1,65}|[a-z ]{1,3}", fullmatch=True),
        "time": st.from_regex(
            r"20[0-9]{2}-1[0-2]-[0-3][0-9][Tt]2[0-3]:59:(00|59|60|61)(\.[0-9]{1,8})?[Zz]", fullmatch=True
        ),
        "data_base64": st.sampled_from([None, "", "e30="]),
    },
)


@given(spellings)
@example({"id": PROJECT.upper(), "projectid": PROJECT.upper()})
@example({"id": "42", "source": "/a"})
def test_both_paths_agree_on_every_spelling_and_normalise_it_as_the_contract_says(made: dict[str, Any]) -> None:
    raw = body(event(**made))
    at_once = decoding._decode_fast([raw])
    if at_once is None:
        assert reason_of(raw, None)[0] is Reason.NOT_AN_EVENT
        return
    (decoded,) = at_once
    assert decoded == decoding._decode_with_reason(raw, None) == decode_logged(raw, decoded.type)
    value = json.loads(raw)
    assert decoded.identity == identity(value) == claimed_identity(raw)
    assert decoded.project_id == value["projectid"].lower()
    assert str(UUID(decoded.id)) == decoded.id


@pytest.mark.parametrize(
    ("id_", "source", "key"),
    [
        (PROJECT, "/a", PROJECT),
        (PROJECT.upper(), "/b", PROJECT),
        ("42", "/a", "48c9a437-d0b0-5b39-bd6c-2bcfba4f72ac"),
        ("42", "/b", "383317bc-7da1-531f-a5e4-64abc5ddfd07"),
        (PROJECT.replace("-", ""), "/a", "d29d2972-dd01-59a2-b5bc-fba0f2519a56"),
        ("naïve 漢", "/a", "727d1a58-70a6-5d3f-bbf3-cda5ce84217e"),
    ],
)
def test_the_event_key_never_changes(id_: str, source: str, key: str) -> None:
    assert decode(body(event(id=id_, source=source))).identity == (TENANT, key)


def test_every_example_input_has_its_expected_outcome() -> None:
    outcomes = []
    for line in INPUTS.read_text().splitlines():
        expected = json.loads(line)
        try:
            decode(body(expected["event"]))
            outcomes.append(("applied", expected["why"]))
        except InvalidEventError as error:
            outcomes.append((error.reason, expected["why"]))
        assert outcomes[-1][0] == expected["expect"], outcomes[-1]
    assert len(outcomes) == 17


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (event(time="2026-11-30T12:00Z"), "time (string of 17 characters): has no seconds; must be RFC 3339"),
        (event(time="2026-11-30T12:00:00"), "time (string of 19 characters): has no offset; must be RFC 3339"),
        (
            event(data_base64="e30="),
            "data_base64 (string of 4 characters): is not supported; send the JSON object itself in `data`",
        ),
        (
            {k: v for k, v in event(data_base64="e30=").items() if k != "data"},
            "data_base64 (string of 4 characters): is not supported",
        ),
        ([event()], "must be one JSON object; it is a JSON array of 1 element"),
        (event(id=""), "id (string of 0 characters): String should have at least 1 character"),
        (event(tenantid="a/b"), "tenantid (string of 3 characters): must be 1 to 64 of A-Z, a-z, 0-9, '.', '_', ':'"),
        (event(source="a b"), "source (string of 3 characters): must be a URI reference (RFC 3986), such as /watchdog"),
        (event(projectid="x"), "projectid (string of 1 character): must be a UUID with hyphens, such as"),
        (event("project.created.v1", {"slug": "A"}), "data.slug (string of 1 character): must be 1 to 100 of a-z"),
        (
            event("repo.connected.v1", {"repoId": "a\x1fb"}),
            "data.repoId (string of 3 characters): must be text without",
        ),
        (
            event("analysis.created.v1", {"severity": "HIGH"}),
            "data.severity (string of 4 characters): Input should be 'critical', 'high', 'medium', 'low' or 'info'",
        ),
    ],
)
def test_a_message_says_what_is_allowed_and_shows_no_regular_expression(made: Any, words: str) -> None:
    detail = reason_of(body(made))[1]
    assert words in detail
    assert "^" not in detail
    assert "[A-Za" not in detail


def test_a_valid_event_takes_the_fast_path(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [body(each) for each in spelled_freely(mixed(500))]
    monkeypatch.delattr(decoding, "_decode_with_reason")
    assert all(decode(raw) for raw in made)


@pytest.mark.parametrize(
    "odd",
    [
        event(specversion="2"),
        event(x=float("nan")),
        event(x="\x00"),
        event(tenantid=next(f"t{n}" for n in range(99) if partition_of(f"t{n}", 8) != HERE.partition)),
        event(time=format_time(HERE.now_ms * 1000 + 300_000_001)),
        event("watchdog.evaluated.v1", {"passed": True, "summary": "x"}),
    ],
    ids=["envelope", "NaN", "U+0000", "partition", "clock", "data"],
)
@pytest.mark.parametrize("at", [0, 1, 19])
def test_an_invalid_event_in_a_batch_is_found_at_any_position(odd: dict[str, Any], at: int) -> None:
    bodies = [body(event()) for _ in range(20)]
    assert decode_batch(bodies, HERE) == [decode(each, HERE) for each in bodies]
    bodies[at] = body(odd)
    wrong = reason_of(bodies[at])
    assert decode_batch(bodies, HERE) is None
    if wrong[0] in (Reason.WRONG_PARTITION, Reason.TIME_IN_FUTURE):
        assert decode_all(bodies) == [decode(each) for each in bodies]
    else:
        with pytest.raises(InvalidEventError) as raised:
            decode_all(bodies)
        assert (raised.value.reason, raised.value.detail) == wrong


def test_limits_of_size_and_depth_apply_to_each_event_of_a_batch_not_to_the_sum() -> None:
    large = [body(event(x="x" * 50_000)) for _ in range(3)]
    deep = [body(event(x=[[[[1]]]])) for _ in range(20)]
    for bodies in (large, deep, []):
        assert decode_batch(bodies, HERE) == decode_all(bodies) == [decode(each, HERE) for each in bodies]


def test_a_refused_body_still_gives_its_tenant_and_event_id() -> None:
    made = event(specversion="2")
    assert claimed_identity(body(made)) == (TENANT, made["id"])
    assert claimed_identity(body(made | {"id": made["id"].upper(), "source": 3})) == (TENANT, made["id"])
    assert claimed_identity(body(made | {"id": "x", "source": "/a"})) == identity(made | {"id": "x", "source": "/a"})
    for wrong in (
        {"id": "x", "source": "a b"},
        {"id": "x", "source": None},
        {"id": "x" * 129},
        {"id": ""},
        {"id": None},
    ):
        assert claimed_identity(body(made | wrong)) == (TENANT, None)
    assert claimed_identity(body(event(tenantid="a b", id=3))) == (None, None)
    assert claimed_identity(b"[") == claimed_identity(b"[]") == (None, None)


def test_an_accepted_event_is_read_back_from_the_log_unchanged() -> None:
    odd = [
        event(summary="NaN", time="2026-04-25T14:30:12.1234567+02:00", extra=[1, {"a": None}]),
        event("support_desk.bound.v1", {"more": 1}, projectid=["whatever"]),
        event("watchdog.evaluated.v1", {"ruleName": "NaN \\u0041 {[", "extra": {"deep": [[]]}}),
    ]
    for made in [*map(event, TYPES), *odd, *mixed(500), *spelled_freely(mixed(500))]:
        for raw in (body(made), json.dumps(dict(reversed(made.items())), indent=2).encode()):
            assert decode_logged(raw, made["type"]) == decode(raw)


@pytest.mark.parametrize(
    ("raw", "type_", "reason"),
    [
        (b"{", "analysis.created.v1", Reason.NOT_JSON),
        (b"{}", "analysis.created.v1", Reason.NOT_AN_EVENT),
        (body(event(time="yesterday")), "analysis.created.v1", Reason.NOT_AN_EVENT),
        (body(event("analysis.created.v1", {"analysisId": ""})), "analysis.created.v1", Reason.INVALID_DATA),
        (body(event() | {"type": "of.another.release.v1"}), "of.another.release.v1", Reason.UNKNOWN_TYPE),
    ],
)
def test_a_logged_body_that_is_no_longer_valid_is_refused_with_its_reason(
    raw: bytes, type_: str, reason: Reason
) -> None:
    with pytest.raises(InvalidEventError) as caught:
        decode_logged(raw, type_)
    assert caught.value.reason is reason
