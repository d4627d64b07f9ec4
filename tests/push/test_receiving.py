"""An upload that ends before its bytes are checked: what had begun ends with it."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType

import pytest
from catalogs import opened_catalog
from waiting import eventually

from harmonia_py.catalog.caches import DEFAULT_CACHE
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.nar import string, strings
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.listings import LongListings
from harmonia_py.push.receiving import PushSession, Receiver
from harmonia_py.push.upload_check import UploadCheck
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.storage.spool import DiskSpool

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SIZE = 512 * 1024**2


def zeros(size: int) -> bytes:
    """A file of a few kilobytes whose NAR is one file of so many zeros."""
    encoder = zstd.ZstdCompressor()
    head = strings(b"nix-archive-1", b"(", b"type", b"regular", b"contents") + size.to_bytes(8, "little")
    block = bytes(1024 * 1024)
    parts = [encoder.compress(head), *(encoder.compress(block) for _ in range(size // len(block)))]
    return b"".join([*parts, encoder.compress(string(b")")), encoder.flush()])


def is_checked() -> bool:
    """Whether a thread of this process is inside the check of an upload."""
    code = UploadCheck.take_all.__code__
    for frame in sys._current_frames().values():
        inner: FrameType | None = frame
        while inner is not None:
            if inner.f_code is code:
                return True
            inner = inner.f_back
    return False


async def test_the_check_of_a_file_ends_with_the_upload_that_cannot_be_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client was told that nothing can be kept, and a thread went on for a minute with what it had sent."""
    data = zeros(SIZE)
    file = PushedFile(Hash.of(data), "zstd")

    async def portions() -> AsyncIterator[bytes]:
        yield data

    async def expect(*_: object, **__: object) -> None:
        await eventually(is_checked)
        raise StorageError("the disk is full")

    threads = Threads(Pool.PUSH, 1)
    async with (
        opened_catalog("sqlite", tmp_path) as catalog,
        DiskBlobs(tmp_path / "files") as blobs,
        DiskSpool(tmp_path / "files") as spool,
    ):
        listings = LongListings(blobs, catalog.nars.reserve, threads)
        receiver = Receiver(spool=spool, blobs=blobs, uploads=catalog.uploads, listings=listings, threads=threads)
        monkeypatch.setattr(catalog.uploads, "expect", expect)
        with pytest.raises(StorageError, match="the disk is full"):
            await receiver.receive(PushSession("s", DEFAULT_CACHE, "token ci"), file, len(data), portions())
        assert not is_checked()
    await threads.aclose()
