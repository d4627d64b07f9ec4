"""Keys and tokens in a power cut: what was announced is on the disk, and so is the name by which it is found."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonia_py.cache.tokens import TokenHash
from harmonia_py.config.key_files import write_secret_key
from harmonia_py.config.token_file import add_token
from harmonia_py.nix.signing import SecretKey


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """What reaches the disk, in order: a file or directory, and the names in it."""
    inner, seen = os.fsync, []

    def fsync(fd: int) -> None:
        inner(fd)
        path = Path(f"/proc/self/fd/{fd}").readlink()
        seen.append((path.name, sorted(os.listdir(fd)) if path.is_dir() else []))

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def make_key(file: Path) -> None:
    write_secret_key(file, SecretKey.generate("cache-1"))


def make_token(file: Path) -> None:
    add_token(file, TokenHash.generate("me")[1])


@pytest.mark.parametrize("make", [make_key, make_token])
def test_the_name_of_what_was_made_is_on_the_disk(
    tmp_path: Path, synced: list[tuple[str, list[str]]], make: Callable[[Path], None]
) -> None:
    """Only the key's bytes were synced, and of a token nothing: the file was gone after a power cut, and the public key
    that clients had been given led to none."""
    make(tmp_path / "secret")
    assert [name for name, entries in synced if not entries]
    assert synced[-1] == (tmp_path.name, ["secret"])


def test_so_are_the_directories_above_it(tmp_path: Path, synced: list[tuple[str, list[str]]]) -> None:
    make_key(tmp_path / "var" / "lib" / "secret-key")
    assert (tmp_path.name, ["var"]) in synced
    assert ("var", ["lib"]) in synced
    assert synced[-1] == ("lib", ["secret-key"])
