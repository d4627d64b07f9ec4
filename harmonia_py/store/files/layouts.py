"""The layouts of the store paths that are being downloaded: scanning a tree of many files for every range is slow."""

import os
import threading
from collections.abc import Iterator

from harmonia_py.cache.source import Piece
from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.layout import Layout
from harmonia_py.runtime.bounded import BoundedBytes
from harmonia_py.store.files.dump import dump, layout_of, read_error

Identity = tuple[int, int, int]
"""Device, inode and change time: they differ when a path was deleted and made again since it was scanned."""


def identity_of(path: str) -> Identity:
    """The identity of the file at `path`. It waits for the disk.

    Raises:
        StorePathChanged: it is not there.
        StorageError: it cannot be looked at.
    """
    try:
        status = os.lstat(path)
    except OSError as error:
        raise read_error(error) from error
    return status.st_dev, status.st_ino, status.st_ctime_ns


class Layouts:
    """The layouts of the store paths that were asked for last. Safe to use from many threads.

    Args:
        max_bytes: how much memory they may take together; the one in use least recently goes first. Half a gigabyte of
            small files is about five megabytes of layout.
    """

    def __init__(self, max_bytes: int = 64 * 1024 * 1024) -> None:
        self._lock = threading.Lock()
        self._kept: BoundedBytes[str, tuple[Identity, Layout]] = BoundedBytes(max_bytes, lambda kept: kept[1].memory)

    def get(self, path: str) -> Layout:
        """The layout of the tree at `path`, which is scanned if it is not known: `Scans` calls this.

        Raises:
            StorePathChanged: it is not there, changed during the scan, or is of a kind no store path has.
            StorageError: it cannot be read, or exceeds the limits of a NAR.
        """
        identity = identity_of(path)
        with self._lock:
            kept = self._kept.get(path)
        if kept is not None and kept[0] == identity:
            return kept[1]
        layout = layout_of(path)
        with self._lock:
            self._kept.put(path, (identity, layout))
        return layout

    def drop(self, path: str) -> None:
        """Forget the layout of `path`."""
        with self._lock:
            self._kept.drop(path)

    def dump(self, path: str, layout: Layout, start: int = 0, stop: int | None = None) -> Iterator[Piece]:
        """`dump` with the `layout` that `get` gave; it is forgotten when it turns out to be wrong."""
        try:
            yield from dump(path, layout, start, stop)
        except StorePathChanged:
            self.drop(path)
            raise
