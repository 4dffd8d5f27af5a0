"""URLs of servers with a canary in the place of the password: no command shows it, whatever is wrong with the URL."""

import os
import subprocess
import sys
from pathlib import Path

import httpx
import psycopg
import pytest
from sqlalchemy import text

from cli.main import MODULES
from projections.database.engines import reader_connection_options, reader_engine, writer_engine
from projections.settings import DatabaseSettings
from tests.support.commands import run_command
from tests.support.servers import PostgresServer, free_port, wait_until

CANARY = "canary"
GOOD = {"REDIS_URL": "redis://127.0.0.1:1/0", "DATABASE_URL": "postgresql://127.0.0.1:1/d"}
ARGUMENTS = {
    "append": ["-"],
    "contract": ["openapi"],
    "dead-letters": ["list"],
    "deployment": ["show"],
    "keys": ["list"],
    "lost": ["list"],
}
# `contract` needs no server, and `demo-traffic` reads REDIS_URL only.
OF_DATABASE = [name for name in MODULES if name not in {"append", "contract", "demo-traffic"}]
OF_REDIS = ["append", "demo-traffic", "status", "doctor", "worker", "dispatcher", "api", "up"]
REFUSED = {
    "DATABASE_URL": [
        f"postgresql://u:p@{CANARY}/w@127.0.0.1:1/d",
        f"postgresql://u:p@{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:p/{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:p?{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:12?{CANARY}=1@127.0.0.1:1/d",
        f"postgresql://127.0.0.1:1/d?{CANARY}=1",
        f"postgresql://127.0.0.1:1/d?{CANARY}",
        f"postgresql://127.0.0.1:{CANARY}/d",
        f"postgresql://127.0.0.1:1,b:{CANARY}/d",
        f"postgresql:/u:{CANARY}@127.0.0.1:1/d",
        f"mysql://u:{CANARY}@127.0.0.1:1/d",
        f"sqlite://u:{CANARY}@h/d",
        f"sqlite:///d?key={CANARY}",
        CANARY,
    ],
    "REDIS_URL": [
        f"redis://:p@{CANARY}/w@127.0.0.1:1/0",
        f"redis://:p/{CANARY}@127.0.0.1:1/0",
        f"redis://:p#{CANARY}@127.0.0.1:1/0",
        f"redis://:p?{CANARY}@127.0.0.1:1/0",
        f"redis://:12?{CANARY}=1",
        f"redis://127.0.0.1:1/0?{CANARY}=1",
        f"redis://127.0.0.1:1/0?socket_timeout={CANARY}",
        f"redis://127.0.0.1:1/0?db={CANARY}",
        f"redis://127.0.0.1:1/{CANARY}",
        f"redis://:{CANARY}",
        f"rediss://127.0.0.1:1/0?ssl_cert_reqs={CANARY}",
        f"unix://u:{CANARY}@",
        f"http://:{CANARY}@127.0.0.1:1",
        CANARY,
    ],
}
ACCEPTED = {
    "DATABASE_URL": [
        f"postgresql://u:{CANARY}@127.0.0.1:1/d",
        f"postgresql://u:%40{CANARY}%2F@127.0.0.1:1/d",
        f"postgresql://u:{CANARY}@127.0.0.1:1,127.0.0.1:2/d",
        f"postgresql://127.0.0.1:1/d?user=u&password={CANARY}",
    ],
    "REDIS_URL": [
        f"redis://:{CANARY}@127.0.0.1:1/0",
        f"redis://127.0.0.1:1/0?password={CANARY}",
        f"rediss://u:%40{CANARY}%2F@127.0.0.1:1/0",
        f"unix://u:{CANARY}@/nonexistent/redis.sock",
    ],
}


def _environ(folder: Path, **changed: str) -> dict[str, str]:
    return os.environ | GOOD | {"PROJECTOR_DATA_DIR": str(folder), "PORT": str(free_port())} | changed


@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
def test_a_url_that_is_refused_is_never_shown(variable: str, tmp_path: Path) -> None:
    names = OF_DATABASE if variable == "DATABASE_URL" else OF_REDIS
    for number, url in enumerate(REFUSED[variable]):
        name = names[number % len(names)]  # every command, every URL
        environ = _environ(tmp_path, **{variable: url})
        done = run_command(environ, "--debug", name, *ARGUMENTS.get(name, []), timeout_s=30)
        said = done.stdout + done.stderr
        assert CANARY not in said, (name, url, said)
        assert "Traceback" not in said, (name, url, said)
        if name != "doctor":  # it reports the setting as a finding
            assert (done.returncode, f"projector: {variable}: " in said) == (2, True), (name, url, said)


@pytest.mark.full
@pytest.mark.parametrize("variable", ["DATABASE_URL", "REDIS_URL"])
def test_the_password_of_a_server_that_does_not_answer_is_never_shown(variable: str, tmp_path: Path) -> None:
    names = ["status", "keys", "dead-letters", "migrate"] if variable == "DATABASE_URL" else ["status", "append"]
    for number, url in enumerate(ACCEPTED[variable]):
        name = names[number % len(names)]
        done = run_command(_environ(tmp_path, **{variable: url}), name, *ARGUMENTS.get(name, []))
        said = done.stdout + done.stderr
        assert (done.returncode, CANARY in said, "Traceback" in said) == (1, False, False), (name, url, said)


@pytest.mark.full
@pytest.mark.parametrize("number", [0, 3])
def test_processes_that_wait_for_servers_log_no_password(number: int, tmp_path: Path) -> None:
    environ = _environ(tmp_path, **{name: urls[number] for name, urls in ACCEPTED.items()})
    log = tmp_path / "log"
    with log.open("wb") as file:
        running = [
            subprocess.Popen([sys.executable, "-m", "cli", name], env=environ, stdout=file, stderr=file)
            for name in ("worker", "dispatcher", "api")
        ]
    url = f"http://127.0.0.1:{environ['PORT']}"
    try:
        wait_until(lambda: log.read_text().count("startup.waiting") >= 2 and _body(url, "/healthz"), "all have started")
        bodies = [_body(url, path) for path in ("/readyz", "/healthz/projector", "/metrics")]
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait(30)
    assert all(bodies)
    assert CANARY not in log.read_text() + "".join(bodies)


def _body(url: str, path: str) -> str:
    try:
        return httpx.get(url + path, timeout=30).text
    except httpx.TransportError:
        return ""


def test_options_of_the_url_reach_postgresql_and_our_limits_stay(postgres_server: PostgresServer) -> None:
    options = "-c%20work_mem%3D7MB%20-c%20statement_timeout%3D0"
    plain = f"postgresql://postgres@127.0.0.1:{postgres_server.port}/postgres?options={options}&connect_timeout=3"
    url = DatabaseSettings.from_environ({"DATABASE_URL": plain}).database_url
    reader = reader_engine(url)
    for engine in (writer_engine(url), reader):
        with engine.connect() as connection:
            shown = [connection.execute(text(f"SHOW {name}")).scalar() for name in ("work_mem", "statement_timeout")]
        engine.dispose()
        assert shown == ["7MB", "20s"]
    arguments = reader_connection_options(reader)  # of the API
    assert arguments["connect_timeout"] == "3"
    with psycopg.connect(**arguments) as connected:
        assert connected.execute("SHOW work_mem").fetchone() == ("7MB",)


def test_the_second_of_several_hosts_is_used_if_the_first_does_not_answer(postgres_server: PostgresServer) -> None:
    plain = f"postgresql://postgres@127.0.0.1:1,127.0.0.1:{postgres_server.port}/postgres"
    engine = writer_engine(DatabaseSettings.from_environ({"DATABASE_URL": plain}).database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT 1")).scalar() == 1
    engine.dispose()
