"""Roots are found as people name them, and whatever else is named does no harm."""

import os
from pathlib import Path

import pytest

from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.roots_file import read_roots_file

PATHS = [StorePath.parse(f"{letter * 32}-{letter}") for letter in "abcd"]
LOGICAL = StoreDir("/nix/store")


@pytest.fixture
def real(tmp_path: Path) -> Path:
    real = tmp_path / "guest" / "nix" / "store"
    for path in PATHS:
        (real / path).mkdir(parents=True)
    return real


def test_store_paths_are_roots_by_both_names_and_with_what_is_inside(real: Path) -> None:
    places = [f"{LOGICAL}/{PATHS[0]}", f"{real}/{PATHS[1]}", f"{LOGICAL}/{PATHS[2]}/bin/sh"]
    assert read_roots_file(places, LOGICAL, real) == set(PATHS[:3])


def test_links_are_followed_until_they_reach_the_store(real: Path, tmp_path: Path) -> None:
    (tmp_path / "profile-1-link").symlink_to(f"{LOGICAL}/{PATHS[0]}")
    (tmp_path / "profile").symlink_to("profile-1-link")
    (tmp_path / "directory").symlink_to(real / PATHS[1])
    assert read_roots_file([str(tmp_path / "profile")], LOGICAL, real) == {PATHS[0]}
    assert read_roots_file([str(tmp_path / "directory" / "bin")], LOGICAL, real) == {PATHS[1]}


def test_every_link_below_a_directory_is_one(real: Path, tmp_path: Path) -> None:
    roots = tmp_path / "gcroots"
    (roots / "per-user" / "root").mkdir(parents=True)
    (roots / "per-user" / "root" / "one").symlink_to(f"{LOGICAL}/{PATHS[0]}")
    (roots / "two").symlink_to(real / PATHS[1])
    (roots / "nowhere").symlink_to("nowhere")
    (roots / "loop").symlink_to("loop")
    (roots / "up").symlink_to("/")
    (roots / "file").write_text(str(PATHS[2]))
    (roots / "outside").symlink_to(f"{LOGICAL}/../../etc")
    os.mkfifo(roots / "fifo")
    assert read_roots_file([str(roots)], LOGICAL, real) == {PATHS[0], PATHS[1]}


@pytest.mark.parametrize(
    "place", ["{root}/nowhere", "{root}/many", "/dev/null", "{logical}", "{logical}/", "{logical}/short"]
)
def test_what_leads_to_no_store_path_is_warned_of(
    tmp_path: Path, place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here is the machine's own: with its /nix/store, which has links, this failed once Nix had been used."""
    monkeypatch.setattr("harmonia_py.store.roots_file._MAX_ENTRIES", 10)
    logical = StoreDir(str(tmp_path / "logical/store"))
    real = tmp_path / "guest/store"
    for directory in (logical, real):
        (Path(directory) / PATHS[0]).mkdir(parents=True)
    for number in range(20):
        (tmp_path / "many" / str(number)).mkdir(parents=True)
    place = place.format(root=tmp_path, logical=logical)
    assert read_roots_file([place, f"{logical}/{PATHS[0]}"], logical, real) == {PATHS[0]}
    assert f"policy.roots: {place}: " in caplog.text


def test_a_directory_with_more_entries_than_are_looked_at_is_warned_of(
    real: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonia_py.store.roots_file._MAX_ENTRIES", 10)
    for number in range(20):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / str(number)).symlink_to(f"{LOGICAL}/{PATHS[0]}")
    assert read_roots_file([str(tmp_path / "many")], LOGICAL, real) == {PATHS[0]}
    assert "has more than 10 entries" in caplog.text
