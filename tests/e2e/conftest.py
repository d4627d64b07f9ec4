"""The real server over the real Nix."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from clients import Team
from lab import Keys, Lab
from server import Server, settings_of


@pytest.fixture
def keys(daemon: Lab) -> Keys:
    return daemon.secret_key("e2e-1")


@pytest.fixture
def server(daemon: Lab, keys: Keys, tmp_path: Path) -> Iterator[Server]:
    """The server of `daemon`'s store, with one key."""
    with Server(tmp_path, daemon.env, settings_of(daemon, keys)) as server:
        yield server


@pytest.fixture
def team(tmp_path: Path, daemon: Lab) -> Iterator[Team]:
    """A private cache, with tokens and users of it."""
    with Team(tmp_path, daemon) as team:
        yield team
