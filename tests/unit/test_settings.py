"""Settings: defaults as documented, and clear refusals that name the variable and never a secret."""

from pathlib import Path

import pytest
from sqlalchemy import make_url

from api_stub.settings import ApiSettings
from event_stream import Producer
from event_stream.server_urls import ServerUrlError
from event_stream.settings import Settings, SettingsError, StreamSettings
from projections.database.engines import writer_engine
from projections.settings import DatabaseSettings
from workers.runtime import redis_client
from workers.settings import RedisSettings


def test_the_defaults_are_those_of_the_contract() -> None:
    stream, api = StreamSettings.from_environ({}), ApiSettings.from_environ({})
    assert (stream.partitions, stream.max_clock_skew_s, stream.backlog_limit) == (8, 300, 1_000_000)
    assert (api.host, api.port, api.ops_host, api.ops_port, api.key_cache_s) == ("127.0.0.1", 8000, None, None, 5)
    assert DatabaseSettings.from_environ({}).database_url == f"sqlite:///{Path.cwd() / 'var' / 'projector.db'}"


@pytest.mark.parametrize(
    ("model", "environ", "said"),
    [
        (StreamSettings, {"PROJECTOR_PARTITIONS": "0"}, "must be a whole number from 1 to 1024"),
        (StreamSettings, {"PROJECTOR_PARTITIONS": "8.5"}, "must be a whole number from 1 to 1024"),
        (StreamSettings, {"PROJECTOR_MAX_CLOCK_SKEW_S": "-1"}, "must be seconds from 0"),
        (StreamSettings, {"PROJECTOR_BACKLOG_LIMIT": "many"}, "must be a whole number, at least 1"),
        (ApiSettings, {"PORT": "70000"}, "must be a port from 0 to 65535"),
        (ApiSettings, {"OPS_PORT": "x"}, "must be a port from 0 to 65535"),
        (ApiSettings, {"PROJECTOR_KEY_CACHE_S": "-1"}, "must be seconds from 0 to 3600"),
        (DatabaseSettings, {"DATABASE_URL": "mysql://u:secret@h/d"}, "must be sqlite:///path or postgresql://"),
        (DatabaseSettings, {"DATABASE_URL": "secret"}, "must be sqlite:///path or postgresql://"),
        (
            DatabaseSettings,
            {"DATABASE_URL": "postgresql://u:secret@h:abc/d"},
            "must be sqlite:///path or postgresql://",
        ),
        (DatabaseSettings, {"DATABASE_URL": "sqlite+other:///secret"}, "must be sqlite:///path or postgresql://"),
        (RedisSettings, {"REDIS_URL": "http://:secret@h"}, "must be redis://"),
        (RedisSettings, {"REDIS_URL": "redis://:secret@h:abc/0"}, "a port is a number"),
        (ApiSettings, {"OPS_HOST": "10.0.0.1"}, "is set without OPS_PORT"),
        (RedisSettings, {}, "is not set"),
        (RedisSettings, {"REDIS_URL": ""}, "is not set"),
    ],
)
def test_a_wrong_value_is_refused_by_name(model: type[Settings], environ: dict[str, str], said: str) -> None:
    name = next(iter(environ), "REDIS_URL")
    with pytest.raises(SettingsError) as caught:
        model.from_environ(environ)
    assert str(caught.value).startswith(f"{name}: ")
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_spelling_of_postgresql_means_psycopg_3(scheme: str) -> None:
    settings = DatabaseSettings.from_environ({"DATABASE_URL": f"{scheme}://u:p%40ss@h:5433/d?sslmode=require"})
    assert settings.database_url == "postgresql+psycopg://u:p%40ss@h:5433/d?sslmode=require"
    assert "p%40ss" not in repr(settings)


@pytest.mark.parametrize(
    ("url", "hosts", "ports"),
    [
        ("postgresql://u:p@a:5432,b:5433/d", "a,b", "5432,5433"),
        ("postgresql://u:p@a,b:5433/d?target_session_attrs=read-write", "a,b", "5432,5433"),
        ("postgresql://u:p@[::1]:5432,b/d", "::1,b", "5432,5432"),
        ("postgresql://u:p@/d?host=a:5432&host=b:5433", "a,b", "5432,5433"),
        ("postgresql://u:p@/d?host=a,b&port=5432,5433", "a,b", "5432,5433"),
        ("postgresql://u:p@%2Frun%2Fpostgresql/d", "/run/postgresql", "5432"),
        ("postgresql://u:p@/d?host=/run/postgresql", "/run/postgresql", ""),
    ],
)
def test_several_hosts_and_sockets_are_accepted_in_every_spelling(url: str, hosts: str, ports: str) -> None:
    parsed = make_url(DatabaseSettings.from_environ({"DATABASE_URL": url}).database_url)
    arguments = parsed.get_dialect()().create_connect_args(parsed)[1]
    found = {name: arguments.get(name, "") for name in ("user", "password", "host", "port", "dbname")}
    assert found == {"user": "u", "password": "p", "host": hosts, "port": ports, "dbname": "d"}


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis://user:p%40ss%2Fw@h:6379/1?health_check_interval=30&socket_keepalive=true",
        "redis://[::1]:6379",
        "rediss://:p@h?ssl_cert_reqs=none&ssl_check_hostname=false&ssl_ca_certs=/ca.pem&db=2",
        "unix://user:p@/run/redis.sock?db=1",
        "unix:///run/redis.sock?username=u&password=p",
    ],
)
def test_redis_connections_can_be_made_with_every_accepted_url(url: str) -> None:
    client = redis_client(RedisSettings.from_environ({"REDIS_URL": url}).redis_url)
    assert client.connection_pool.make_connection() is not None  # where redis-py refuses unknown options


@pytest.mark.parametrize("name", ["a?b", "a#b", "a%20b", "a@b:c", "a b", "ü"])
def test_a_folder_with_any_characters_can_hold_the_database(name: str, tmp_path: Path) -> None:
    url = DatabaseSettings.from_environ({"PROJECTOR_DATA_DIR": str(tmp_path / name)}).database_url
    assert make_url(url).database == str(tmp_path / name / "projector.db")
    assert DatabaseSettings.from_environ({"DATABASE_URL": url}).database_url == url
    engine = writer_engine(url)
    engine.connect().close()
    engine.dispose()
    assert (tmp_path / name / "projector.db").exists()


def test_a_producer_refuses_a_wrong_url_without_showing_it() -> None:
    with pytest.raises(ServerUrlError, match="percent-encode") as caught:
        Producer.from_url("redis://:pa@secret/0@h/0")
    assert "secret" not in str(caught.value)


def test_an_empty_value_counts_as_unset() -> None:
    assert StreamSettings.from_environ({"PROJECTOR_PARTITIONS": ""}).partitions == 8


def test_only_the_documented_names_count() -> None:
    assert StreamSettings.from_environ({"partitions": "4"}).partitions == 8
    assert ApiSettings.from_environ({"host": "10.0.0.1", "port": "1"}).port == 8000
