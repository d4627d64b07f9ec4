"""Pieces of downloads that pass through memory."""

import os
from pathlib import Path

from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.web.http.pieces import at_hand


def test_bytes_in_memory_are_at_hand() -> None:
    assert at_hand(Download.of_bytes(b"abcdef", "x"), 2, 5) == b"cde"


def test_bytes_of_a_file_are_at_hand_when_the_page_cache_has_all_of_them(tmp_path: Path) -> None:
    """A thread read each small file, which takes longer than the reading."""
    file = tmp_path / "file"
    file.write_bytes(bytes(range(100)))
    fd = os.open(file, os.O_RDONLY)
    try:
        download = Download(size=90, etag="x", pieces=lambda _start, _stop: iter(()), file=FileSlice(fd, 10, 90))
        # None: a file system that does not tell.
        assert at_hand(download, 5, 8) in (b"\x0f\x10\x11", None)
        assert at_hand(download, 5, 95) is None  # the file has become shorter
    finally:
        os.close(fd)


def test_bytes_that_come_from_a_generator_are_not_at_hand() -> None:
    assert at_hand(Download(size=3, etag="x", pieces=lambda _start, _stop: iter((b"abc",))), 0, 3) is None
