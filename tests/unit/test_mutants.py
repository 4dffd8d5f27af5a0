"""The planted bugs still apply, every guarantee has some, and tests import the tree they belong to."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.mutants.mutants import AREAS, GUARANTEES, MUTANTS, Mutant
from tests.mutants.plant import ROOT, DoesNotApplyError, plant

PACKAGES = ("api_stub", "cli", "event_stream", "migrations", "monitoring", "projections", "tests", "workers")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_replaces_text_that_occurs_once_and_is_valid_python(mutant: Mutant, tmp_path: Path) -> None:
    copy = tmp_path / mutant.file
    copy.parent.mkdir(parents=True)
    copy.write_bytes((ROOT / mutant.file).read_bytes())
    assert plant(tmp_path, mutant) > 0
    if copy.suffix == ".py":
        compile(copy.read_text(), mutant.file, "exec")
    assert copy.read_text() != (ROOT / mutant.file).read_text()


def test_a_planted_bug_that_no_longer_applies_is_an_error(tmp_path: Path) -> None:
    mutant = Mutant("old", "G1", "code.py", "a = 1\n", "a = 2\n", ())
    for text in ("", "a = 3\n", "a = 1\n\na = 1\n"):
        (tmp_path / "code.py").write_text(text)
        with pytest.raises(DoesNotApplyError):
            plant(tmp_path, mutant)


def test_every_guarantee_and_contract_area_has_planted_bugs() -> None:
    assert {mutant.promise for mutant in MUTANTS} == {*GUARANTEES, *AREAS}
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_the_tests_that_planted_bugs_name_exist() -> None:
    for mutant in MUTANTS:
        assert mutant.tests
        for test in mutant.tests:
            file, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}(" in (ROOT / file).read_text(), test


def test_tests_and_the_processes_they_start_import_the_tree_of_the_tests() -> None:
    code = f"from importlib.util import find_spec\nfor name in {PACKAGES}: print(find_spec(name).origin)"
    started = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd="/")
    here = [find_spec(name) for name in PACKAGES]
    expected = [str(ROOT / name / "__init__.py") for name in PACKAGES]
    assert [spec.origin if spec else None for spec in here] == expected
    assert started.stdout.split("\n")[:-1] == expected
