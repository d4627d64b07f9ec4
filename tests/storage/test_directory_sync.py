"""Names in directories become durable together."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from harmonia_py.storage.directory_sync import DirectorySync

SECONDS = 20.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads


def test_what_waits_for_a_directory_waits_for_one_sync_of_it(
    tmp_path: Path, threads: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of many uploads that ended at once flushed the disk for its own name."""
    other = tmp_path / "other"
    other.mkdir()
    begun, goes_on, synced = Event(), Event(), []

    def fsync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())
        begun.set()
        assert goes_on.wait(SECONDS)

    monkeypatch.setattr(os, "fsync", fsync)
    names = DirectorySync(threads)
    first = names.begin(tmp_path)
    assert begun.wait(SECONDS)
    later = [names.begin(tmp_path) for _ in range(9)] + [names.begin(other)]
    goes_on.set()
    for waiting in (first, *later):
        waiting.result(SECONDS)
    assert synced == [tmp_path, tmp_path, other], "a name that came while one was under way is in the next"


def test_all_that_wait_learn_that_a_directory_cannot_be_synced(tmp_path: Path, threads: ThreadPoolExecutor) -> None:
    names = DirectorySync(threads)
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            names.begin(tmp_path / "gone").result(SECONDS)
