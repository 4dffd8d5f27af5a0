"""What the documents say is true of the code: settings, commands, links, events."""

import re
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeAlias, Union, get_args, get_origin

import click
import pytest
from pydantic import BaseModel

from api_stub.settings import ApiSettings
from cli import status
from cli.main import projector
from cli.metrics import MEASURES, Measure
from cli.scrape import HALF_WITHIN_S
from event_stream.decoding import decode
from event_stream.settings import Settings, StreamSettings
from projections.settings import DatabaseSettings
from tests.support.events import body
from workers import rates, tenants
from workers.checkup.check import Check
from workers.checkup.registry import CHECKS
from workers.overview import Overview
from workers.progress import STALLED_AFTER_S
from workers.settings import RedisSettings
from workers.told import Told

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS: list[type[Settings]] = [StreamSettings, ApiSettings, DatabaseSettings, RedisSettings]


def test_the_readme_lists_every_setting_and_no_other() -> None:
    rows = [line.split("|")[1] for line in README.splitlines() if re.match(r"\| `[A-Z_]+`", line)]
    listed = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}
    assert listed == {field.alias for model in SETTINGS for field in model.model_fields.values()}


def test_the_readme_tells_the_defaults() -> None:
    for model in (StreamSettings, ApiSettings):
        for field in model.model_fields.values():
            if isinstance(field.default, int | float) and not isinstance(field.default, bool):
                row = next(line for line in README.splitlines() if line.startswith("| ") and f"`{field.alias}`" in line)
                assert f"{field.default:,.0f}" in row or f"{field.default:.0f}" in row


def test_every_command_in_the_documents_exists() -> None:
    commands = set(re.findall(r"projector ((?:[a-z]+-?)+)", " ".join(path.read_text() for path in DOCUMENTS)))
    shown = {name for name in commands if name in projector.commands}
    assert {"up", "migrate", "api", "worker", "dispatcher", "append", "status", "keys", "dead-letters"} <= shown
    in_code = re.findall(r"`projector ([a-z-]+)", README) + re.findall(r"^\$ projector ([a-z-]+)", README, re.MULTILINE)
    assert in_code
    for name in in_code:
        assert isinstance(projector.commands[name], click.Command)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_readmes_event_is_valid() -> None:
    snippet = re.search(r"producer\.append\(\s*(\{.*?\n\s*\})\s*\)", README, re.DOTALL)
    assert snippet is not None
    made: dict[str, Any] = {}
    exec(f"event = {snippet[1]}", {}, made)
    assert decode(body(made["event"])).type == "analysis.created.v1"


def test_the_table_of_the_doctors_codes_is_what_it_says() -> None:
    page = (ROOT / "docs" / "doctor.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted(_row(check) for check in CHECKS)


def _row(check: Check) -> str:
    remedy = re.sub(r"\{(\w+)\}", r"<\1>", check.remedy).replace("|", r"\|")
    return f"| `{check.code}` | {check.severity} | {check.promise or ''} | {check.means} | {remedy} |"


def test_the_table_of_metrics_is_what_is_scraped() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `projector_")]
    assert listed == [_metrics_row(measure) for measure in MEASURES]


def _metrics_row(measure: Measure[Any]) -> str:
    labels = ", ".join(f"`{label}`" for label in measure.labels)
    return f"| `{measure.name}` | {measure.kind} | {labels} | {measure.means} |"


def test_a_scrape_takes_no_longer_than_the_page_says() -> None:
    assert f"within {2 * HALF_WITHIN_S:.0f} s" in (ROOT / "docs" / "metrics.md").read_text()


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
    page = (ROOT / "docs" / "status.md").read_text()
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    assert listed == [_member_row(*member) for member in _members(Overview)]
    assert len(listed) > 50


def test_the_page_of_status_tells_the_bounds_that_hold() -> None:
    text = " ".join((ROOT / "docs" / "status.md").read_text().split())
    assert f"{tenants.LOOKED_AT_MAX:,} events and {tenants.LOOKED_AT_MAX:,} entries are looked at" in text
    assert f"but {tenants.LOOKED_AT_MIN} of each partition at least" in text
    assert (tenants.SHOWN, rates.LATELY_S, status.REFRESH_S) == (10, 600, 1)
    assert f"`silent` after {STALLED_AFTER_S:.0f} s" in text


Member: TypeAlias = tuple[str, Any, Told]


def _members(model: type[BaseModel], prefix: str = "") -> Iterator[Member]:
    """Yield every member in the order in which it is printed, those of nested objects behind their own."""
    for name, field in model.model_fields.items():
        yield from _members_at(f"{prefix}{name}", field.annotation, field.metadata)
    for computed in model.model_computed_fields.values():
        annotation, *metadata = get_args(computed.return_type)
        yield from _members_at(f"{prefix}{computed.alias}", annotation, metadata)


def _members_at(name: str, annotation: Any, metadata: list[Any]) -> Iterator[Member]:
    (told,) = [each for each in metadata if isinstance(each, Told)]
    yield name, annotation, told
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


def _member_row(name: str, annotation: Any, told: Told) -> str:
    kind = " or ".join(_kind(each) for each in (get_args(annotation) if _is_union(annotation) else [annotation]))
    return f"| `{name}` | {kind} | {told.unit} | {told.means} |"


def _is_union(annotation: Any) -> bool:
    return get_origin(annotation) in (Union, UnionType)


def _kind(annotation: Any) -> str:
    kinds = {int: "integer", float: "number", str: "string", bool: "boolean", NoneType: "null", list: "array"}
    return kinds.get(get_origin(annotation) or annotation, "string" if _is_text(annotation) else "object")


def _is_text(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, str)
