"""The tutorial as written: its commands run, and print the shown output."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.deployment import Deployment

PAGE = (Path(__file__).parents[2] / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"^```(sh|console|python) (run|file=)(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = "127.0.0.1:8000"
# Parts that differ between runs: times, positions, ids of dead letters, counts of the demo's events, rates.
VARIES = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z|\d{4}-\d\d-\d\d|\d{13}-\d+|\b[0-9a-f]{12}\b|\d{1,3}(?:,\d{3})+|\b[\d.]+ s\b|\b\d+ in flight"
)


@dataclass
class Step:
    """A command of the tutorial, what the page shows as its output, and the exit status that the page implies."""

    command: str
    shown: list[str] = field(default_factory=list)
    exit_status: int = 0


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path / "var", "--demo")
    made.start()
    made.await_ready()
    yield made
    made.remove()


def test_the_tutorial_prints_what_it_shows(up: Deployment) -> None:
    folder = up.directory.parent
    (folder / ".venv").symlink_to(sys.prefix)
    for name, text in files():
        (folder / name).write_text(text)
    found = list(steps())
    assert len(found) > 12
    environ = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    script = "".join(f"{step.command}\nprintf '\\n<<%d>>\\n' $?\n" for step in found)
    assert PORT in script
    done = subprocess.run(
        ["bash", "-c", script.replace(PORT, f"127.0.0.1:{up.port}")],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    printed = re.findall(r"(.*?)\n<<(\d+)>>\n", done.stdout, re.DOTALL)
    assert len(printed) == len(found), done.stdout + done.stderr
    for step, (output, status) in zip(found, printed, strict=True):
        assert int(status) == step.exit_status, step.command + output + done.stderr
        assert re.fullmatch(pattern(step.shown), masked(output.rstrip().splitlines())), step.command + "\n" + output


def test_every_block_is_run_or_only_shown_on_purpose() -> None:
    assert len(re.findall(r"^```\w", PAGE, re.MULTILINE)) == len(BLOCK.findall(PAGE)) + 2  # `make run`, what it prints
    assert {"first_events.py", "broken_producer.py"} == {name for name, _ in files()}


def files() -> Iterator[tuple[str, str]]:
    """Yield the name and text of each file that the reader saves."""
    for _, kind, name, text in BLOCK.findall(PAGE):
        if kind == "file=":
            yield name, text


def steps() -> Iterator[Step]:
    """Yield the commands in the order of the page."""
    for language, kind, options, text in BLOCK.findall(PAGE):
        if kind == "file=":
            continue
        if language == "sh":
            yield Step(text)
            continue
        status = int(options.partition("exit=")[2] or 0)
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            typed, output = split(part)
            yield Step(typed, output.splitlines(), status)


def split(text: str) -> tuple[str, str]:
    """Return a command, with its here-document, and what follows it."""
    first, _, rest = text.partition("\n")
    if "<<EOF" in first:
        document, _, rest = rest.partition("EOF\n")
        return f"{first}\n{document}EOF", rest
    return first, rest


def masked(lines: list[str]) -> str:
    """Return lines without parts that differ between runs."""
    return "\n".join(" ".join(VARIES.sub("#", line).split()) for line in lines)


def pattern(shown: list[str]) -> str:
    """Return a regular expression for the shown output; the line `…` stands for any lines."""
    return re.escape(masked(shown)).replace("…", r"(?:.|\n)*")
