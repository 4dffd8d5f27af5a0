"""The recipes of docs/reference/producer.md work as printed."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from event_stream import Producer, WaitTimeoutError
from event_stream.events.event import partition_of
from tests.support.harness import drain_all, log_size, totals
from workers.runtime import Runtime

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "producer.md").read_text()
URL = "redis://127.0.0.1:6379/0"
# The client of the servers in wheels is Python; this gives it the name and the arguments that the page uses.
REDIS_CLI = f"""#!{sys.executable}
import sys
from redis import Redis
_, flag, url, *command = sys.argv
assert flag == "-u"
print(Redis.from_url(url).execute_command(*command).decode())
"""

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def recipe(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return str(found)


def test_the_recipe_for_python_appends_an_event_and_waits_for_it(
    runtime: Runtime, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROJECTOR_PARTITIONS", str(runtime.stream.partitions))
    code = recipe("python")
    assert URL in code
    appending, waiting = re.split(r"(?=^producer\.wait)", code.replace(URL, redis_url), flags=re.MULTILINE)
    names: dict[str, object] = {}
    exec(appending, names)
    producer, position = names["producer"], names["position"]
    assert isinstance(producer, Producer)
    assert re.fullmatch(rf"{partition_of('ten_acme', runtime.stream.partitions)}-\d+-\d+", str(position))
    with pytest.raises(WaitTimeoutError):
        exec(waiting.replace("timeout_s=10", "timeout_s=0"), names)
    drain_all(runtime)
    exec(waiting, names)
    assert log_size(runtime.reader) == 1


def test_the_recipe_for_a_shell_appends_an_event_to_the_right_partition(
    runtime: Runtime, redis_url: str, tmp_path: Path
) -> None:
    client = tmp_path / "redis-cli"
    client.write_text(REDIS_CLI)
    client.chmod(0o755)
    environ = os.environ | {"REDIS_URL": redis_url, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", "-euc", recipe("sh")], env=environ, check=True, capture_output=True, text=True)
    drain_all(runtime)
    assert totals(runtime)["applied"] == 1
    hint: Any = runtime.stream.redis.get(f"events:{{{partition_of('ten_acme', runtime.stream.partitions)}}}:projected")
    assert done.stdout.strip() == hint.decode()
