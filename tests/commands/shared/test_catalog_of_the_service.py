"""A user's commands on a machine with the service say that they work on another catalog than the service's."""

from pathlib import Path

import msgspec
import pytest

from harmonia_py.commands.shared import catalog
from harmonia_py.config.settings import Config
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import ConfigError


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Of a user without rights, whose STATE_DIRECTORY is not set, on a machine with the service."""
    (tmp_path / "of-the-service").mkdir()
    monkeypatch.setattr(catalog, "SERVICE_STATE", tmp_path / "of-the-service")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    return msgspec.convert({"state_directory": str(tmp_path / "own")}, Config)


async def count_caches(opened: SqlCatalog) -> int:
    return len(await opened.caches.page(None, 10))


def test_that_there_is_none_of_their_own_leads_to_the_service(config: Config, tmp_path: Path) -> None:
    """It said `cache create` and `token create` make one, and what these made no server looked at."""
    with pytest.raises(
        ConfigError, match=rf"the service here has its own in {tmp_path}/of-the-service: call this as root$"
    ):
        catalog.in_catalog(config, count_caches)


def test_one_that_is_made_is_warned_of_once(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        assert catalog.in_catalog(config, count_caches, make=True) == 1  # the one at /
    (warning,) = caplog.messages
    assert warning.endswith("call this as root")


@pytest.mark.parametrize("case", ["root", "a place of their own", "no service"])
def test_others_are_told_what_makes_one(
    config: Config, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case == "root":
        monkeypatch.setattr("os.geteuid", lambda: 0)
    elif case == "no service":
        (tmp_path / "of-the-service").rmdir()
    else:
        monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "own"))
    with pytest.raises(ConfigError, match=r"`cache create` and `token create` make one$"):
        catalog.in_catalog(config, count_caches)
