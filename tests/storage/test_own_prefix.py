"""The part of a bucket that belongs to one directory."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harmonia_py.errors import StorageError
from harmonia_py.storage.s3.own_prefix import own_prefix
from harmonia_py.storage.s3.settings import S3Settings

SETTINGS = S3Settings(bucket="bucket", prefix="kept")


def test_of_several_processes_that_name_a_part_the_first_has_its_way_and_nothing_else_is_left(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        parts = set(threads.map(lambda _: own_prefix(tmp_path, SETTINGS), range(32)))
    (part,) = parts
    assert part.prefix.startswith("kept/.parts/")
    assert [file.name for file in tmp_path.iterdir()] == ["part"]


def test_a_name_is_used_when_no_power_cut_can_take_it_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that was lost was drawn anew, and all that had been put under the first one lay there for ever."""
    synced: list[str] = []
    real = os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        synced.append(Path(f"/proc/self/fd/{fd}").resolve().name)

    monkeypatch.setattr(os, "fsync", fsync)
    directory = tmp_path / "young"
    directory.mkdir()
    first = own_prefix(directory, SETTINGS)
    assert synced[0].startswith("part.")
    assert synced[1:] == ["young", tmp_path.name]
    # Another process that finds the name cannot know whether the one that made it has come as far.
    synced.clear()
    assert own_prefix(directory, SETTINGS) == first
    assert synced == ["young", tmp_path.name]


@pytest.mark.parametrize("text", ["", "../../other", "0123456789abcdef0", "0123456789ABCDEF"])
def test_a_file_that_names_no_part_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "part").write_text(text)
    with pytest.raises(StorageError, match="does not name a part"):
        own_prefix(tmp_path, SETTINGS)
