"""Servers that keep what is pushed in a bucket."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from administering import Machine
from lab import Lab
from seaweed import Bucket, Seaweed, environment
from server import Server, settings_of


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def public_bucket(seaweed: Seaweed) -> Bucket:
    return seaweed.bucket(everybody=True)


@pytest.fixture
def team(daemon: Lab, public_bucket: Bucket, tmp_path: Path) -> Iterator[Server]:
    """A server with the public cache `team`, in the folder `kept` of a bucket that everybody may read."""
    settings = settings_of(daemon) | {
        "caches": {"team": {"public": True}},
        "storage": {"url": public_bucket.url("kept")},
    }
    with Server(tmp_path, daemon.env | environment(), settings) as server:
        yield server
