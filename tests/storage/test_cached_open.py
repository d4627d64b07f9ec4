"""The event loop opens a file only where that does not wait for the disk, and only one that is whole and unchanged."""

import ctypes
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from blob_readers import read_all

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.storage import metadata
from harmonia_py.storage.cached_open import CachedOpen, can_tell
from harmonia_py.storage.disk import DiskBlobs

KEY = BlobKey("a.nar.zst")
DATA = b"data" * 5000
METADATA = {"file_hash": "sha256:x"}
_OPENED = 0x20  # IN_OPEN


def file_of(directory: Path) -> Path:
    (path,) = (directory / "blobs").glob(f"*/{KEY}")
    return path


def forget_pages(path: Path) -> None:
    """Have the page cache let go of a file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


@pytest.fixture
def silent_path() -> Iterator[Path]:
    """An empty directory whose file system does not say what of a file is in memory, as those that ask a server."""
    with tempfile.TemporaryDirectory(dir="/dev/shm", prefix="harmonia-py-") as directory:  # a tmpfs
        if can_tell(Path(directory)):
            pytest.skip("the tmpfs of this kernel says what is in memory")
        yield Path(directory)


@contextmanager
def opens_of(path: Path) -> Iterator[int]:
    """A descriptor of inotify(7): it can be read once the file was opened, and raises BlockingIOError before."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(fd, os.fsencode(path), _OPENED) > 0
        yield fd
    finally:
        os.close(fd)


def test_a_file_in_memory_is_opened_and_nothing_else(disk_path: Path) -> None:
    opener, path = CachedOpen(), disk_path / "file"
    path.write_bytes(DATA)
    (disk_path / "link").symlink_to(path)
    fd = opener.open(str(path))
    assert fd is not None, "Linux 5.12 and later can tell"
    try:
        assert os.read(fd, len(DATA)) == DATA
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)
    assert opener.open(str(disk_path / "link")) is None
    assert opener.open(str(disk_path / "absent")) is None
    fd = opener.open(str(path))
    assert fd is not None, "an absent file is no sign that this kernel cannot tell"
    os.close(fd)


async def test_a_blob_is_the_same_at_once_and_opened_by_a_thread(disk_path: Path) -> None:
    async with DiskBlobs(disk_path) as blobs:
        await blobs.put(KEY, DATA, METADATA)
    async with DiskBlobs(disk_path) as one, DiskBlobs(disk_path) as other:
        at_once, opened = one.open_at_once(KEY), await other.open(KEY)
        assert at_once is not None
        assert opened is not None
        with at_once, opened:
            assert (at_once.size, at_once.metadata) == (opened.size, opened.metadata) == (len(DATA), METADATA)
            assert await read_all(at_once.pieces(0, None)) == DATA
        again = one.open_at_once(KEY)
        assert again is not None
        again.release()


async def test_no_file_is_opened_at_once_where_opening_it_may_ask_a_server(disk_path: Path, silent_path: Path) -> None:
    """NFS and FUSE ask their server in each open, whatever of the path is in memory: the event loop waited for it."""
    for directory in (disk_path, silent_path):
        async with DiskBlobs(directory) as blobs:
            await blobs.put(KEY, DATA, METADATA)
            with opens_of(file_of(directory)) as opens:
                blob = blobs.open_at_once(KEY)
                if directory == disk_path:
                    assert blob is not None
                    blob.release()
                    assert os.read(opens, 4096)
                else:
                    assert blob is None
                    with pytest.raises(BlockingIOError):
                        os.read(opens, 4096)
            opened = await blobs.open(KEY)
            assert opened is not None
            opened.release()


async def test_what_is_opened_at_once_counts_as_used(disk_path: Path) -> None:
    async with DiskBlobs(disk_path) as blobs:
        await blobs.put(KEY, DATA, METADATA)
        os.utime(file_of(disk_path), ns=(0, file_of(disk_path).stat().st_mtime_ns))
        blob = blobs.open_at_once(KEY)
        assert blob is not None
        blob.release()
        assert [info.last_used > 0 async for info in blobs.list()] == [True]


@pytest.mark.parametrize("opened", [False, True])
async def test_what_has_to_be_read_from_the_disk_is_not_opened_at_once(disk_path: Path, *, opened: bool) -> None:
    """The question begins to read ahead: where the disk is done before the answer, the file was rightly opened."""
    async with DiskBlobs(disk_path) as blobs:
        await blobs.put(KEY, DATA, METADATA)
        if opened:
            blob = await blobs.open(KEY)
            assert blob is not None
            blob.release()
        for _ in range(20):
            forget_pages(file_of(disk_path))
            blob = blobs.open_at_once(KEY)
            if blob is None:
                break
            blob.release()
        assert blob is None
        blob = await blobs.open(KEY)
        assert blob is not None
        blob.release()


@pytest.mark.parametrize("fault", ["touched", "shorter", "deleted"])
@pytest.mark.parametrize("opened", [False, True])
async def test_what_another_program_has_changed_is_not_opened_at_once(
    disk_path: Path, fault: str, *, opened: bool
) -> None:
    async with DiskBlobs(disk_path) as blobs:
        await blobs.put(KEY, DATA, METADATA)
        path = file_of(disk_path)
        if opened:
            blob = blobs.open_at_once(KEY)
            assert blob is not None
            blob.release()
        if fault == "deleted":
            path.unlink()
        elif fault == "touched":
            path.write_bytes(DATA)
        else:
            mark = path.stat().st_mtime_ns
            os.truncate(path, 3)
            os.utime(path, ns=(mark, mark))
        assert blobs.open_at_once(KEY) is None


async def test_a_blob_whose_metadata_are_in_a_file_of_their_own_is_left_to_a_thread(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata, "_ATTRIBUTE_LIMIT", 0)
    async with DiskBlobs(disk_path) as blobs:
        await blobs.put(KEY, DATA, METADATA)
        assert blobs.open_at_once(KEY) is None
        blob = await blobs.open(KEY)
        assert blob is not None
        with blob:
            assert blob.metadata == METADATA
