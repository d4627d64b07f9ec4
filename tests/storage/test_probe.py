from pathlib import Path

import pytest

from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.storage import probe as module
from harmonia_py.storage.probe import probe


def test_a_directory_that_takes_files_passes_and_keeps_nothing(tmp_path: Path) -> None:
    probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for place in ("none", "file"):
        with pytest.raises(StorageError):
            probe(tmp_path / place)


def test_a_full_file_system_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 2**60)
    with pytest.raises(StorageFull):
        probe(tmp_path)
