"""Updates the generated parts of the reference pages: `make docs`.

A page marks a generated part with `<!-- generated: NAME -->` and `<!-- end -->`. The rest is written by hand. A test
checks that the pages in the repository are up to date.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from api_stub.settings import ApiSettings
from cli.main import projector
from event_stream.documents.json_schema import event_schema, example_event
from event_stream.events.event_types import TENANT_LEVEL, TYPES
from event_stream.events.patterns import NO_CONTROL_PATTERN, SLUG_PATTERN
from event_stream.settings import Settings, StreamSettings
from monitoring.catalogue import METRICS
from projections.settings import DatabaseSettings, DeadLetterSettings
from workers.settings import RedisSettings

REFERENCE = Path(__file__).parent / "reference"
PAGES = [REFERENCE / name for name in ("commands.md", "events.md", "metrics.md", "settings.md")]
_PART = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HELP_WIDTH = 100
_PATTERN_WORDS = {SLUG_PATTERN: "1 to 100 of `a`–`z`, `0`–`9` and `-`"}


def generated(page: str) -> str:
    """Return the text of a page with its generated parts updated."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n{part[3]}", page)


def event_types() -> str:
    """Return a section for each event type: its meaning, its members and an example."""
    return "\n".join(_event_type(type_) for type_ in TYPES)


def settings_table(*models: type[Settings]) -> Callable[[], str]:
    """Return the function that renders the table of the variables of some settings models."""
    rows = [
        (f"`{field.alias}`", _default(field), str(field.description), str(field.title))
        for model in models
        for field in model.model_fields.values()
    ]
    return lambda: _table(("variable", "default", "value", "meaning"), rows)


def commands() -> str:
    """Return a section for each command, with the text of its `--help`."""
    root = click.Context(projector, info_name="projector", **projector.context_settings)
    return "\n".join(_command(context) for context in _contexts(root))


def metrics() -> str:
    """Return the table of all metrics."""
    rows = [
        (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
    return _table(("metric", "type", "labels", "meaning"), rows)


def _event_type(type_: str) -> str:
    schema = event_schema(type_)
    data = schema["properties"]["data"]
    level = "Tenant level: `projectid` is ignored." if type_ in TENANT_LEVEL else "Project level."
    rows = [
        (f"`{name}`", "yes" if name in data.get("required", []) else "no", _value(member), member["description"])
        for name, member in data["properties"].items()
    ]
    members = _table(("member of `data`", "required", "value", "meaning"), rows) if rows else "`data` has no members.\n"
    rules = "".join(f"* {rule['$comment']}\n" for rule in data.get("allOf", []))
    example = json.dumps(example_event(type_), indent=2, ensure_ascii=False)
    parts = [f"### `{type_}`\n", f"{schema['description']} {level}\n", members]
    parts += [f"Rules across members:\n\n{rules}"] if rules else []
    return "\n".join([*parts, f"```json\n{example}\n```\n"])


def _value(member: dict[str, Any]) -> str:
    return " or ".join(_one_value(each) for each in member.get("anyOf", [member]))


def _one_value(rules: dict[str, Any]) -> str:
    if "enum" in rules:
        return ", ".join(f"`{value}`" for value in rules["enum"])
    if rules.get("pattern") in _PATTERN_WORDS:
        return _PATTERN_WORDS[rules["pattern"]]
    if "maxLength" in rules:
        without = ", no control characters" if rules.get("pattern") == NO_CONTROL_PATTERN else ""
        return f"string of {rules.get('minLength', 0)} to {rules['maxLength']:,} characters{without}"
    if "maximum" in rules:
        return f"{rules['type']} from {rules['minimum']} to {rules['maximum']:,}"
    return str(rules["type"])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    return f"`{field.default:g}`" if isinstance(field.default, float) else f"`{field.default}`"


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    cells = [headers, ["---"] * len(headers), *rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _contexts(context: click.Context) -> Iterator[click.Context]:
    """Yield the context of a command and those of its subcommands, in the order of the help."""
    yield context
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            command = context.command.get_command(context, name)
            assert command is not None
            yield from _contexts(click.Context(command, parent=context, info_name=name))


def _command(context: click.Context) -> str:
    context.terminal_width = _HELP_WIDTH
    return f"## `{context.command_path}`\n\n```text\n{context.get_help()}\n```\n"


PARTS: dict[str, Callable[[], str]] = {
    "event-types": event_types,
    "stream-settings": settings_table(StreamSettings),
    "api-settings": settings_table(ApiSettings),
    "dead-letter-settings": settings_table(DeadLetterSettings),
    "server-settings": settings_table(RedisSettings, DatabaseSettings),
    "commands": commands,
    "metrics": metrics,
}


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(generated(path.read_text()))
