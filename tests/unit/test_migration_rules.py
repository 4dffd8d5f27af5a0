"""The rules for revisions that keep readers and writers running (CONTRIBUTING.md, "Write a migration")."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent, indent

import pytest

import migrations

REVISIONS = sorted((Path(migrations.__file__).parent / "versions").glob("[0-9]*.py"))
CHANGES_ROWS = re.compile(r"\s*(WITH|UPDATE|INSERT|DELETE|MERGE)\b", re.IGNORECASE)


def violations(source: str) -> Iterator[str]:
    """Yield what breaks the rules in the text of a revision."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    outside = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.With) and "autocommit_block" in ast.unparse(block.items[0])
        for node in ast.walk(block)
    }
    names = [(call, ast.unparse(call.func)) for call in calls]
    operations = [(call, name.removeprefix("op.")) for call, name in names if name.startswith("op.")]
    created = {ast.unparse(call.args[0]) for call, name in operations if name == "create_table"}
    changing = [call for call in calls if _changes_rows(call)]
    if changing and any(re.match("add|alter|create|drop|rename", name) for _, name in operations):
        yield "changes tables and rows"
    if any(id(call) not in outside for call in changing):
        yield "changes rows inside of its transaction"
    for call, name in operations:
        table = ast.unparse(call.args[1]) if name == "create_index" else ""
        is_concurrent = any(keyword.arg == "postgresql_concurrently" for keyword in call.keywords)
        if table and table not in created and not (is_concurrent and id(call) in outside):
            yield f"creates an index on {table} under a lock"


def _changes_rows(call: ast.Call) -> bool:
    if ast.unparse(call.func) == "op.bulk_insert":
        return True
    texts = [node.value for node in ast.walk(call) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return ast.unparse(call.func).endswith(".execute") and any(CHANGES_ROWS.match(text) for text in texts)


@pytest.mark.parametrize("file", REVISIONS, ids=lambda file: file.stem)
def test_a_revision_holds_up_neither_readers_nor_writers(file: Path) -> None:
    assert list(violations(file.read_text())) == []


@pytest.mark.parametrize(
    ("body", "broken"),
    [
        ('op.add_column("project", later)\nop.execute("UPDATE project SET later = 1")', "tables and rows"),
        ('op.execute(sa.text("DELETE FROM project"))', "inside of its transaction"),
        ('op.bulk_insert(project, [{"a": 1}])', "inside of its transaction"),
        ('op.create_index("by_name", "project", ["name"])', "an index on 'project'"),
        ('op.create_index("by_name", "project", ["name"], postgresql_concurrently=True)', "an index on 'project'"),
    ],
)
def test_the_rules_notice(body: str, broken: str) -> None:
    (found, *_) = violations(body)
    assert broken in found


@pytest.mark.parametrize(
    "body",
    [
        'op.create_table("later", id)\nop.create_index("by_name", "later", ["name"])',
        """
        with op.get_context().autocommit_block():
            op.create_index("by_name", "project", ["name"], postgresql_concurrently=True)
        """,
        """
        with op.get_context().autocommit_block():
            while op.get_bind().execute(sa.text("UPDATE project SET a = 1 WHERE a IS NULL")).rowcount:
                pass
        """,
    ],
)
def test_the_rules_allow(body: str) -> None:
    assert list(violations("def upgrade():\n" + indent(dedent(body), "    "))) == []
