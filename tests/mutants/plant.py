"""Plant a bug in a throwaway copy of the tree, run the tests that should notice it, and say which did."""

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
WIDER = ("tests/unit", "tests/integration", f"--ignore={SELF_TEST}")  # the self test notices any change of a line
TESTS_TIMEOUT_S = 300
WIDER_TIMEOUT_S = 1800
FIRST_TIER_SHARE = 0.9  # of all planted bugs, `make test` catches at least this share
_NOT_COPIED = shutil.ignore_patterns(".git", ".venv", "var", "dist", "__pycache__", ".*_cache", ".hypothesis")
_FAILED = re.compile(r"^FAILED (\S+?::.+?)(?: - (.*))?$", re.MULTILINE)
_LINE_WIDTH = 500  # else pytest leaves out why a test failed


class DoesNotApplyError(Exception):
    """The line that a bug replaces is not found exactly once: the code has moved on, and the bug must follow it."""


class TestsDidNotRunError(Exception):
    """The tests neither passed nor failed: they could not be found or set up, or did not end."""


class Verdict(StrEnum):
    """What became of a planted bug."""

    CAUGHT = "caught"
    CAUGHT_LATER = "caught later"  # only by tests that `make test` leaves out
    CAUGHT_ELSEWHERE = "caught elsewhere"  # by the wider set only: the tests it names are not the right ones
    SURVIVED = "SURVIVED"
    BROKEN = "BROKEN"  # it does not apply, or the tests did not run


@dataclass(frozen=True, slots=True)
class Failure:
    """The first test that failed, and why."""

    test: str
    why: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a planted bug; `by` is the first test that failed, `why` why it did, or why none did."""

    mutant: Mutant
    line: int
    verdict: Verdict
    by: str
    why: str
    seconds: float

    @property
    def is_caught(self) -> bool:
        """Whether a test failed as it should."""
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
            verdict, failure = _judged(root, mutant, tiers)
    except (DoesNotApplyError, TestsDidNotRunError) as error:
        verdict, failure = Verdict.BROKEN, Failure("", str(error))
    return Outcome(mutant, line, verdict, failure.test, failure.why, time.monotonic() - started)


def _judged(root: Path, mutant: Mutant, tiers: Sequence[str]) -> tuple[Verdict, Failure]:
    for tier in tiers:
        if failure := first_failure(root, mutant.tests, tier):
            return Verdict.CAUGHT if tier == "first" else Verdict.CAUGHT_LATER, failure
    if "full" in tiers and (failure := first_failure(root, WIDER, timeout_s=WIDER_TIMEOUT_S)):
        return Verdict.CAUGHT_ELSEWHERE, failure
    return Verdict.SURVIVED, Failure("", "no test failed")


@contextmanager
def copy_of_tree() -> Iterator[Path]:
    """Yield a copy of the project's tree that may be spoilt, and remove it."""
    with tempfile.TemporaryDirectory(prefix="projector-mutant-") as directory:
        root = Path(directory) / "tree"
        shutil.copytree(ROOT, root, ignore=_NOT_COPIED)
        yield root


def plant(root: Path, mutant: Mutant) -> int:
    """Put a bug into the tree at `root`; returns its line. Raises DoesNotApplyError."""
    file = root / mutant.file
    text = file.read_text() if file.exists() else ""
    if (found := text.count(mutant.old)) != 1:
        raise DoesNotApplyError(f"{mutant.file} holds its line {found} times, not once; bring the bug up to date")
    file.write_text(text.replace(mutant.old, mutant.new))
    return text[: text.index(mutant.old)].count("\n") + 1


def first_failure(
    root: Path, tests: Iterable[str], tier: str | None = None, timeout_s: float = TESTS_TIMEOUT_S
) -> Failure | None:
    """Run tests on the tree at `root`, only those of a tier if one is given; returns the first that fails, if any does.

    Raises TestsDidNotRunError where a test could not be set up, found or brought to its end: that catches nothing.
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
    """End tests that hang, and the servers that they started if they no longer can."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=30)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.communicate()
