"""Plants a bug in a temporary copy of the tree, runs the tests that should catch it, and reports the result."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
import pytest

from tests.mutants.mutants import Mutant

ROOT = Path(__file__).parents[2]
SELF_TEST = "tests/unit/test_mutants.py"
WIDER = ("tests/unit", "tests/integration", f"--ignore={SELF_TEST}")  # the self-test fails on any changed line
TESTS_TIMEOUT_S = 300
WIDER_TIMEOUT_S = 1800
FIRST_TIER_SHARE = 0.9  # of all planted bugs, `make test` catches at least this share
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "var", "dist", "__pycache__", ".*_cache", ".hypothesis")
_FAILED = re.compile(r"^FAILED (\S+?::.+?)(?: - (.*))?$", re.MULTILINE)
_LINE_WIDTH = 500  # wide enough for the reason of a failure


class DoesNotApplyError(Exception):
    """The text that a bug replaces does not occur exactly once; update the bug."""


class TestsDidNotRunError(Exception):
    """The tests neither passed nor failed: they were not found, could not be set up, or did not end."""


class Verdict(StrEnum):
    """The outcome of a planted bug."""

    CAUGHT = "caught"
    CAUGHT_LATER = "caught later"  # only by tests that `make test` leaves out
    CAUGHT_ELSEWHERE = "caught elsewhere"  # only by the wider set: the bug names the wrong tests
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"  # it does not apply, or the tests did not run


@dataclass(frozen=True, slots=True)
class Failure:
    """The first failed test and its reason."""

    test: str
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a planted bug: `by` is the first failed test, `why` its reason, or the reason why none failed."""

    mutant: Mutant
    line: int
    verdict: Verdict
    by: str
    why: str
    seconds: float

    @property
    def is_caught(self) -> bool:
        """Whether a test failed."""
        return self.verdict in (Verdict.CAUGHT, Verdict.CAUGHT_LATER, Verdict.CAUGHT_ELSEWHERE)

    @property
    def place(self) -> str:
        """Where the bug was planted."""
        return f"{self.mutant.file}:{self.line}"


def outcome_of(mutant: Mutant, tiers: Sequence[str]) -> Outcome:
    """Plant a bug in a copy of its own and run its tests of `tiers`; if they pass, the wider set after the full tier."""
    started = time.monotonic()
    line = 0
    try:
        with copy_of_tree() as root:
            line = plant(root, mutant)
            verdict, failure = _verdict_of(root, mutant, tiers)
    except (DoesNotApplyError, TestsDidNotRunError) as error:
        verdict, failure = Verdict.BROKEN, Failure("", str(error))
    return Outcome(mutant, line, verdict, failure.test, failure.why, time.monotonic() - started)


def _verdict_of(root: Path, mutant: Mutant, tiers: Sequence[str]) -> tuple[Verdict, Failure]:
    for tier in tiers:
        if failure := first_failure(root, mutant.tests, tier):
            return Verdict.CAUGHT if tier == "first" else Verdict.CAUGHT_LATER, failure
    if "full" in tiers and (failure := first_failure(root, WIDER, timeout_s=WIDER_TIMEOUT_S)):
        return Verdict.CAUGHT_ELSEWHERE, failure
    return Verdict.SURVIVED, Failure("", "no test failed")


@contextmanager
def copy_of_tree() -> Iterator[Path]:
    """Yield a temporary copy of the project's tree."""
    with tempfile.TemporaryDirectory(prefix="projector-mutant-") as directory:
        root = Path(directory) / "tree"
        shutil.copytree(ROOT, root, ignore=_NOT_COPIED)
        yield root


def plant(root: Path, mutant: Mutant) -> int:
    """Plant a bug in the tree at `root`; returns its line. Raises DoesNotApplyError."""
    file = root / mutant.file
    text = file.read_text() if file.exists() else ""
    if (found := text.count(mutant.old)) != 1:
        raise DoesNotApplyError(
            f"{mutant.file} contains the text of the bug {found} times instead of once; update the bug"
        )
    file.write_text(text.replace(mutant.old, mutant.new))
    return text[: text.index(mutant.old)].count("\n") + 1


def first_failure(
    root: Path, tests: Iterable[str], tier: str | None = None, timeout_s: float = TESTS_TIMEOUT_S
) -> Failure | None:
    """Run tests on the tree at `root`, only those of a tier if one is given; returns the first that fails, if any does.

    Raises TestsDidNotRunError if a test was not found, could not be set up, or did not end; that catches nothing.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "--tb=short", "-p", "no:cacheprovider"]
    process = subprocess.Popen(
        [*command, *(["--tier", tier] if tier else []), *tests],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "COLUMNS": str(_LINE_WIDTH)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        shown, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        raise TestsDidNotRunError(f"the tests did not end within {timeout_s:g} s") from None
    if process.returncode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        return None
    failed = _FAILED.search(shown)
    if process.returncode != pytest.ExitCode.TESTS_FAILED or failed is None:
        raise TestsDidNotRunError(f"pytest ended with {process.returncode}: {shown[-2000:]}")
    return Failure(failed[1], failed[2] or "")


def _end(process: "subprocess.Popen[str]") -> None:
    """End hanging tests; if they do not react, kill them with the servers that they started."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.communicate()
