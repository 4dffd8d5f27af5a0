"""The benchmark runs: a few of its rows, at their smallest size."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

ROWS = ("drain", "activity", "append")


def test_the_benchmark_measures_and_writes_a_table_a_document_and_a_chart(tmp_path: Path) -> None:
    document, picture = tmp_path / "of" / "bench.json", tmp_path / "bench.svg"
    command = [sys.executable, "-m", "benchmarks", "--quick", "--json", str(document), "--svg", str(picture), *ROWS]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=1800)

    assert done.returncode == 0, done.stdout + done.stderr
    for row in ROWS:
        assert f"{row}: measured in" in done.stderr
    measured: dict[str, Any] = json.loads(document.read_text())
    assert [row["name"] for row in measured["rows"]] == ["drain", "activity", "append"]
    runs = {who: runs for row in measured["rows"] for who, runs in row["runs"].items()}
    assert {"one worker", "limit-log", "afternoon", "job-per-event", "activity", "append_many"} <= runs.keys()
    assert all(value > 0 for figures in runs.values() for run in figures for value in run.values())
    for row in measured["rows"]:
        for goal in row["goals"]:
            assert goal["least"] <= goal["greatest"]
    # As many bars as goals, in a picture that is XML.
    bars = [each for each in ET.fromstring(picture.read_text()).iter() if each.get("class") in ("met", "missed")]
    assert len(bars) == sum(len(row["goals"]) for row in measured["rows"])


def test_an_unknown_row_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "no-such-row"], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    assert "no-such-row" in done.stderr
