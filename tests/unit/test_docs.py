"""The documents match the code: settings, commands, links, events."""

import inspect
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin

import click
import pytest
from pydantic import BaseModel

import event_stream
from api_stub.errors import ErrorResponse
from api_stub.openapi import document
from api_stub.routes.registry import READS
from api_stub.settings import ApiSettings
from cli.commands import status
from cli.main import projector
from docs import generate
from event_stream import Producer, Reason
from event_stream.events.decoding import decode
from event_stream.events.event import partition_of
from event_stream.events.event_key import NAMESPACE, event_key
from event_stream.events.json_body import BODY_BYTES_MAX, DEPTH_MAX
from event_stream.settings import Settings, StreamSettings
from monitoring.catalogue import METRICS
from monitoring.definition import MetricDefinition
from monitoring.scrape import SOURCE_TIMEOUT_S
from projections.settings import DatabaseSettings, DeadLetterSettings
from tests.support.events import body
from workers.doctor.check import Check
from workers.doctor.registry import CHECKS
from workers.reporting import tenants
from workers.reporting.overview import Overview
from workers.settings import RedisSettings
from workers.telemetry import apply_rates
from workers.telemetry.progress import STALLED_AFTER_S

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
README = (ROOT / "README.md").read_text()
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SETTINGS: list[type[Settings]] = [StreamSettings, ApiSettings, DatabaseSettings, DeadLetterSettings, RedisSettings]


def test_the_documented_event_key_is_right() -> None:
    text = (REFERENCE / "events.md").read_text()
    namespace = re.search(r"namespace `([0-9a-f-]{36})`", text)
    example = re.search(r"the source `(\S+)` and the id `(\S+)` give `([0-9a-f-]{36})`", text)
    assert namespace
    assert example
    assert str(NAMESPACE) == namespace[1]
    assert event_key(example[2], example[1]) == example[3]


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 120


def test_every_command_in_the_documents_exists() -> None:
    commands = set(re.findall(r"projector ((?:[a-z]+-?)+)", " ".join(path.read_text() for path in DOCUMENTS)))
    shown = {name for name in commands if name in projector.commands}
    assert {"up", "migrate", "api", "worker", "dispatcher", "append", "status", "keys", "dead-letters"} <= shown
    in_code = re.findall(r"`projector ([a-z-]+)", README) + re.findall(r"^\$ projector ([a-z-]+)", README, re.MULTILINE)
    assert in_code
    for name in in_code:
        assert isinstance(projector.commands[name], click.Command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_has_a_target(document: Path) -> None:
    text = _without_code(document.read_text())
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if not target.startswith("http"):
            _check_target((document.parent / target) if target else document, anchor)


def test_every_page_and_anchor_that_code_names_exists() -> None:
    named = {
        (target, anchor)
        for path in _texts()
        for target, anchor in re.findall(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", path.read_text())
    }
    assert len({anchor for _, anchor in named if anchor}) > 25
    for target, anchor in named:
        _check_target(ROOT / target, anchor)


def test_a_missing_anchor_is_noticed() -> None:
    with pytest.raises(AssertionError, match=r"events\.md has no anchor #no-such-rule"):
        _check_target(REFERENCE / "events.md", "no-such-rule")
    with pytest.raises(AssertionError, match=r"nowhere\.md"):
        _check_target(ROOT / "docs" / "nowhere.md", "")


def test_nothing_cites_a_contract_outside_the_repository() -> None:
    assert not [path for path in _texts() if re.search(r"CONTRACT (\d|section|G\d)", path.read_text())]


def _texts() -> Iterator[Path]:
    """Yield the files that may cite a page, except this one, which cites missing ones on purpose."""
    for top in ROOT.iterdir():
        if top.name.startswith(".") or top.name == "var":
            continue
        for path in top.rglob("*") if top.is_dir() else [top]:
            if (
                path.suffix in (".py", ".md", ".yml", ".json", ".toml", "")
                and path.is_file()
                and path != Path(__file__)
            ):
                yield path


def _check_target(path: Path, anchor: str) -> None:
    assert path.exists(), path
    if anchor:
        assert anchor in _anchors(path.read_text()), f"{path.name} has no anchor #{anchor}"


@cache
def _anchors(page: str) -> frozenset[str]:
    """Return the explicit anchors of a page, and those that its headings get on GitHub."""
    text = _without_code(page)
    headings = re.findall(r"^#+ +(.*?) *$", text, re.MULTILINE)
    slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    explicit = re.findall(r'<a id="([^"]+)">', text)
    assert len(set(explicit) | set(slugs)) == len(explicit) + len(set(slugs)), "an anchor stands twice"
    return frozenset([*slugs, *explicit])


def _without_code(page: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", page, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", generate.PAGES, ids=lambda path: path.name)
def test_the_generated_parts_of_a_page_are_what_make_docs_writes(page: Path) -> None:
    assert generate.generated(page.read_text()) == page.read_text()


def test_every_generated_part_is_on_a_page() -> None:
    text = "".join(page.read_text() for page in generate.PAGES)
    assert sorted(re.findall(r"<!-- generated: (\S+) -->", text)) == sorted(generate.PARTS)


def test_the_settings_page_has_every_setting() -> None:
    listed = re.findall(r"^\| `([A-Z_]+)`", (REFERENCE / "settings.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(str(field.alias) for model in SETTINGS for field in model.model_fields.values())


def test_the_page_of_events_has_every_reason_in_order() -> None:
    section = (REFERENCE / "events.md").read_text().split("### Reasons")[1].split("### Replay")[0]
    assert re.findall(r"^\| `(\w+)`", section, re.MULTILINE) == [reason.value for reason in Reason]


def test_the_page_of_events_has_the_limits_of_the_code() -> None:
    text = (REFERENCE / "events.md").read_text()
    assert f"at most {BODY_BYTES_MAX:,} bytes" in text
    assert f"at most {DEPTH_MAX} levels deep" in text
    assert f"`ten_acme` belongs to partition {partition_of('ten_acme', 8)} of 8" in text


def test_the_examples_on_the_page_of_the_api_match_the_models() -> None:
    sections = re.split(r"^## ", (REFERENCE / "api.md").read_text(), flags=re.MULTILINE)
    models: list[tuple[str, type[BaseModel]]] = [("Errors\n", ErrorResponse)]
    models += [(f"`GET {re.escape(read.path)}[`?]", read.openapi.response) for read in READS]
    for marker, model in models:
        examples = [example for section in sections if re.search(marker, section) for example in _examples(section)]
        assert examples, marker
        for example in examples:
            dumped = model.model_validate(example, strict=True).model_dump(by_alias=True, exclude_unset=True)
            assert dumped == example
    (health,) = [example for section in sections if section.startswith("Operations") for example in _examples(section)]
    assert health.keys() == {"status", "problems"}


def _examples(section: str) -> list[Any]:
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", section, re.DOTALL)]


def test_the_page_of_the_api_has_every_path_and_every_code() -> None:
    page = (REFERENCE / "api.md").read_text()
    assert all(f"`{path}`" in page for path in document()["paths"])
    sources = "".join(path.read_text() for path in (ROOT / "api_stub").rglob("*.py"))
    codes = set(re.findall(r'"([A-Z]+(?:_[A-Z]+)+|UNAUTHORIZED|FORBIDDEN|UNAVAILABLE)"', sources))
    assert {"API_KEY_REVOKED", "NOT_FOUND", "WRONG_PROJECT", "UNAVAILABLE"} <= codes
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_the_page_of_producers_has_every_public_method_with_its_parameters() -> None:
    headings = set(re.findall(r"^### `(.*)`$", (REFERENCE / "producer.md").read_text(), re.MULTILINE))
    assert headings == {_shown(name) for name in vars(Producer) if not name.startswith("_")}


def _shown(name: str) -> str:
    member = getattr(Producer, name)
    if isinstance(member, property):
        return name
    parameters = [each for each in inspect.signature(member).parameters.values() if each.name != "self"]
    shown = ", ".join(str(each.replace(annotation=each.empty)).replace(" = ", "=") for each in parameters)
    return f"{'Producer.' if inspect.ismethod(member) else ''}{name}({shown})"


def test_the_page_of_producers_has_every_public_error() -> None:
    page = (REFERENCE / "producer.md").read_text()
    errors = [name for name in event_stream.__all__ if name.endswith("Error")]
    assert len(errors) > 4
    assert [name for name in errors if f"`{name}`" not in page] == []


def test_the_readmes_event_is_valid() -> None:
    snippet = re.search(r"producer\.append\(\s*(\{.*?\n\s*\})\s*\)", README, re.DOTALL)
    assert snippet is not None
    made: dict[str, Any] = {}
    exec(f"event = {snippet[1]}", {}, made)
    assert decode(body(made["event"])).type == "project.created.v1"


def test_the_table_of_doctor_codes_matches_the_code() -> None:
    page = (REFERENCE / "doctor.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(_row(check) for check in CHECKS)


def _row(check: Check) -> str:
    remedy = re.sub(r"\{(\w+)\}", r"<\1>", check.remedy).replace("|", r"\|")
    return f"| `{check.code}` | {check.severity} | {check.guarantee or ''} | {check.meaning} | {remedy} |"


def test_the_table_of_metrics_matches_a_scrape() -> None:
    page = (REFERENCE / "metrics.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `projector_")]
    assert listed == [_metrics_row(measure) for measure in METRICS]


def _metrics_row(measure: MetricDefinition[Any]) -> str:
    labels = ", ".join(f"`{label}`" for label in measure.labels)
    return f"| `{measure.name}` | {measure.kind} | {labels} | {measure.help} |"


def test_a_scrape_takes_no_longer_than_the_page_says() -> None:
    assert f"within {2 * SOURCE_TIMEOUT_S:.0f} s" in (REFERENCE / "metrics.md").read_text()


def test_the_procfile_runs_commands_that_exist() -> None:
    lines = [line.partition(": ") for line in (ROOT / "Procfile").read_text().splitlines()]
    assert [name for name, _, _ in lines] == ["release", "api", "worker", "dispatcher"]
    for _, _, command in lines:
        assert command.removeprefix("projector ") in projector.commands


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_the_locks_hold_hashes_and_name_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert not re.search(r"https?://|--index|--extra-index|--find-links", text)
    pinned = re.findall(r"^[a-z0-9][^\s=]*==", text, re.MULTILINE)
    assert len(pinned) > 35
    assert text.count("--hash=sha256:") >= len(pinned)


def test_the_table_of_members_is_what_status_prints_as_json() -> None:
    page = (REFERENCE / "status.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    assert listed == [_member_row(*member) for member in _members(Overview)]
    assert len(listed) > 50


def test_the_page_of_status_has_the_bounds_of_the_code() -> None:
    text = " ".join((REFERENCE / "status.md").read_text().split())
    assert (
        f"{tenants.INSPECTED_MAX:,} events and {tenants.INSPECTED_MAX:,} entries of all partitions together are inspected"
        in text
    )
    assert f"but at least {tenants.INSPECTED_PER_PARTITION_MIN} of each partition" in text
    assert (tenants.TENANTS_SHOWN, apply_rates.HISTORY_S, status.REFRESH_S) == (10, 600, 1)
    assert f"`silent` after {STALLED_AFTER_S:.0f} s" in text


Member: TypeAlias = tuple[str, Any, str]


def _members(model: type[BaseModel], prefix: str = "") -> Iterator[Member]:
    """Yield every member in the order in which it is printed, followed by the members of nested objects."""
    for name, field in model.model_fields.items():
        yield from _members_at(f"{prefix}{name}", field.annotation, field.description)
    for name, computed in model.model_computed_fields.items():
        yield from _members_at(f"{prefix}{name}", computed.return_type, computed.description)


def _members_at(name: str, annotation: Any, description: str | None) -> Iterator[Member]:
    assert description, f"{name} has no description"
    yield name, annotation, description
    many = (
        "[]" if get_origin(annotation) is list or any(get_origin(each) is list for each in get_args(annotation)) else ""
    )
    for inner in _types_in(annotation):
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _members(inner, f"{name}{many}.")


def _types_in(annotation: Any) -> Iterator[Any]:
    inside = get_args(annotation)
    if not inside:
        yield annotation
    for each in inside:
        yield from _types_in(each)


def _member_row(name: str, annotation: Any, description: str) -> str:
    kind = " or ".join(_kind(each) for each in (get_args(annotation) if _is_union(annotation) else [annotation]))
    return f"| `{name}` | {kind} | {description} |"


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _kind(annotation: Any) -> str:
    kinds = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null", list: "array"}
    return kinds.get(get_origin(annotation) or annotation, "string" if _is_text(annotation) else "object")


def _is_text(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, str)
