"""Uploads that end early, and those that outlive their session."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType

import pytest
from catalogs import opened_catalog
from pushed_paths import PATH, pushed
from trees import File
from waiting import eventually
from zstd_library import zstd

from harmonia_py.catalog.caches import DEFAULT_CACHE
from harmonia_py.catalog.uploads import Session
from harmonia_py.database.catalog import SqlCatalog
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


@asynccontextmanager
async def receiving(directory: Path) -> AsyncIterator[tuple[SqlCatalog, Receiver]]:
    """A receiver with its catalog, on the disk."""
    threads = Threads(Pool.PUSH, 1)
    async with (
        opened_catalog("sqlite", directory) as catalog,
        DiskBlobs(directory / "files") as blobs,
        DiskSpool(directory / "files") as spool,
    ):
        listings = LongListings(blobs, catalog.nars.reserve, threads)
        yield (
            catalog,
            Receiver(
                spool=spool, blobs=blobs, uploads=catalog.uploads, listings=listings, threads=threads, checked_at_once=1
            ),
        )
    await threads.aclose()


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

    async with receiving(tmp_path) as (catalog, receiver):
        monkeypatch.setattr(catalog.uploads, "expect", expect)
        with pytest.raises(StorageError, match="the disk is full"):
            await receiver.receive(PushSession("s", DEFAULT_CACHE, "token ci"), file, len(data), portions())
        assert not is_checked()


async def test_a_file_is_taken_although_its_session_ended_while_it_came(tmp_path: Path) -> None:
    """A file that came for longer than a day outlived its session: the row that had expected it was gone."""
    large = pushed(PATH, File(os.urandom(600_000)))
    assert large.claim.file_hash is not None
    file = PushedFile(large.claim.file_hash, "none")
    async with receiving(tmp_path) as (catalog, receiver):
        now = receiver.now()
        session = Session(id="s", cache=DEFAULT_CACHE, principal="token ci", begun=now, seen=now)

        async def portions() -> AsyncIterator[bytes]:
            yield large.data[:300_000]
            await catalog.uploads.session(session, end=True)
            await catalog.garbage.forget(await catalog.garbage.claim(9, now=now))
            yield large.data[300_000:]

        await receiver.receive(PushSession("s", DEFAULT_CACHE, "token ci"), file, len(large.data), portions())
        found = await catalog.uploads.find(DEFAULT_CACHE, file.file_hash)
        assert found is not None
        assert (tmp_path / "files" / found.blob_key).read_bytes() == large.data


async def test_what_takes_minutes_to_check_does_not_hold_up_what_others_push(tmp_path: Path) -> None:
    """Some files of zeros, compressed, held all threads for minutes, also when their client had left."""
    bomb = zeros(8 * SIZE)
    small = pushed(PATH, File(b"hello"))
    assert small.claim.file_hash is not None

    async def portions(data: bytes) -> AsyncIterator[bytes]:
        yield data

    async with receiving(tmp_path) as (catalog, receiver):
        now = receiver.now()
        for name in ("bombs", "small"):
            row = Session(id=name, cache=DEFAULT_CACHE, principal=f"token {name}", begun=now, seen=now)
            await catalog.uploads.session(row)
        theirs, ours = (PushSession(name, DEFAULT_CACHE, f"token {name}") for name in ("bombs", "small"))
        zero = PushedFile(Hash.of(bomb), "zstd")
        checks = [asyncio.create_task(receiver.receive(theirs, zero, len(bomb), portions(bomb))) for _ in range(4)]
        await eventually(is_checked)
        file = PushedFile(small.claim.file_hash, "none")
        await asyncio.wait_for(receiver.receive(ours, file, len(small.data), portions(small.data)), 20)
        assert not any(check.done() for check in checks)
        for check in checks:
            check.cancel()
        await asyncio.wait(checks)
