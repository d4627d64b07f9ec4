"""Fixtures for everyone: labs with a real Nix. See lab.py."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import Lab


def _lab(root: Path, *, chroot: bool = False) -> Iterator[Lab]:
    if shutil.which("nix-daemon") is None:
        pytest.fail("Nix is not installed: run `make test`, which installs it")
    with Lab(root, chroot=chroot) as lab:
        lab.closure = lab.build()
        yield lab


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """A store with the small closure; its store dir is below `tmp_path`."""
    root = tmp_path / "lab"
    root.mkdir()
    yield from _lab(root)


@pytest.fixture
def chroot_lab(tmp_path: Path) -> Iterator[Lab]:
    """A store with the small closure whose store dir is `/nix/store`, with the files elsewhere."""
    root = tmp_path / "chroot"
    root.mkdir()
    yield from _lab(root, chroot=True)


@pytest.fixture
def daemon(lab: Lab) -> Lab:
    """`lab`, with its daemon running."""
    lab.start_daemon()
    return lab
