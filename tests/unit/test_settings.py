"""Settings: defaults as documented, and clear refusals that name the variable and never a secret."""

from pathlib import Path

import pytest

from api_stub.settings import ApiSettings
from event_stream.settings import Settings, SettingsError, StreamSettings
from projections.settings import DatabaseSettings
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
        (RedisSettings, {"REDIS_URL": "redis://:secret@h:abc/0"}, "must be redis://"),
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


def test_an_empty_value_counts_as_unset() -> None:
    assert StreamSettings.from_environ({"PROJECTOR_PARTITIONS": ""}).partitions == 8


def test_only_the_documented_names_count() -> None:
    assert StreamSettings.from_environ({"partitions": "4"}).partitions == 8
    assert ApiSettings.from_environ({"host": "10.0.0.1", "port": "1"}).port == 8000
