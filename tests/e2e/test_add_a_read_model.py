"""The how-to page "Add a read model" works: its diff applies to a copy of the tree, and the tests pass there."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants.plant import ROOT, copy_of_tree

PAGE = ROOT / "docs" / "how-to" / "add-a-read-model.md"
TESTS = [
    "tests/integration/test_open_alerts.py",
    "tests/integration/test_migrations.py",
    "tests/integration/test_projections_contract.py",
    "tests/integration/test_projection_versions.py",
    "tests/integration/test_rebuild.py::test_any_damage_to_a_row_is_undone_byte_for_byte",
    "tests/unit/test_docs.py",
    "tests/e2e/test_openapi.py",
]


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    with copy_of_tree() as root:
        blocks = re.findall(r"^(```+)diff\n(.*?)^\1\n", PAGE.read_text(), re.DOTALL | re.MULTILINE)
        diff = "".join(block for _, block in blocks)
        subprocess.run(["git", "apply", "--verbose", "-"], cwd=root, input=diff, text=True, check=True)
        subprocess.run(
            [sys.executable, "docs/generate.py"], cwd=root, env=os.environ | {"PYTHONPATH": str(root)}, check=True
        )
        yield root


def test_the_tests_of_the_copy_pass(copy: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "--tier", "first", *TESTS]
    done = subprocess.run(
        command, cwd=copy, env=os.environ | {"PYTHONPATH": str(copy)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "open_alerts" in (copy / "projections" / "read_models" / "registry.py").read_text()


def test_the_code_of_the_page_is_formatted_and_typed(copy: Path) -> None:
    for command in (["ruff", "check", "-q"], ["ruff", "format", "--check", "-q"], ["mypy"]):
        files = [] if command == ["mypy"] else ["projections/read_models", "api_stub/routes", "migrations"]
        done = subprocess.run(
            [Path(sys.executable).parent / command[0], *command[1:], *files],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
