"""An entry of the queue of a hook: all of it is there, or nothing."""

import errno
import os
from pathlib import Path

import pytest

from harmonia_py.client.push_queue import PushQueue
from harmonia_py.errors import StorageError
from harmonia_py.nix.store_path import StoreDir

STORE = StoreDir.parse("/nix/store")
PATH = "/nix/store/xb4y5iklhya4blk42k1cfkb8k07dpp9b-hello"


def test_nothing_is_left_of_an_entry_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each build on a full disk left two hidden files behind, which were never removed."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        PushQueue(tmp_path).add([PATH])
    assert list((tmp_path / "new").iterdir()) == []


def test_a_word_that_is_no_text_is_set_aside(tmp_path: Path) -> None:
    """The hook of the build ended in a traceback."""
    queue = PushQueue(tmp_path)
    queue.add([PATH, os.fsdecode(b"/nix/store/\xff")])
    (name,) = queue.entries(10)
    assert list(queue.read(name, STORE)) == [STORE.parse_path(PATH)]
    assert len(queue.state().aside) == 1


def test_an_entry_that_another_service_has_pushed_meanwhile_names_nothing(tmp_path: Path) -> None:
    queue = PushQueue(tmp_path)
    queue.add([PATH])
    (name,) = queue.entries(10)
    for _ in range(2):
        queue.done([name])
    assert list(queue.read(name, STORE)) == []
    assert queue.state().aside == []


def test_a_file_that_is_no_entry_is_left_alone(tmp_path: Path) -> None:
    """`hook status` ended in a traceback where an editor had left a copy of an entry in the queue."""
    queue = PushQueue(tmp_path)
    queue.add([PATH])
    (name,) = queue.entries(10)
    (tmp_path / "new" / f"#{name}#").write_text(f"{PATH}\n")
    (tmp_path / "new" / "README").write_text("What builds have made.\n")
    state = queue.state()
    assert (state.waiting, queue.entries(10)) == (1, [name])
    assert state.oldest is not None
