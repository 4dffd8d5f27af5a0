"""The limits on connections follow the limit on open files."""

import resource

import pytest

from api_stub.settings import ApiSettings
from event_stream.settings import SettingsError


def test_the_default_leaves_files_for_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, expected in ((1024, 900), (65_536, 10_000), (resource.RLIM_INFINITY, 10_000), (100, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _what, files=files: (files, files))
        assert ApiSettings.from_environ({}).connection_limit == expected


def test_more_connections_than_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (1024, 1024))
    assert ApiSettings.from_environ({"PROJECTOR_CONNECTIONS_MAX": "900"}).connection_limit == 900
    with pytest.raises(SettingsError, match=r"PROJECTOR_CONNECTIONS_MAX: must be at most 900.*ulimit -n"):
        ApiSettings.from_environ({"PROJECTOR_CONNECTIONS_MAX": "901"})
