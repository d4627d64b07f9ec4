"""`StoreFiles` over what a real Nix calls valid."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab import Lab
from plain_store import PlainStore
from trees import read_pieces

from harmonia_py.cache.tree import Directory, File, Kind
from harmonia_py.errors import DaemonError, StorageError
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.files.store_files import StoreFiles
from harmonia_py.store.metadata import StoreMetadata
from harmonia_py.store.sqlite import SqliteStore


@pytest.fixture(params=["daemon", "chroot sqlite"])
def any_lab(request: pytest.FixtureRequest) -> Lab:
    lab: Lab = request.getfixturevalue("chroot_lab" if "chroot" in request.param else "lab")
    if "daemon" in request.param:
        lab.start_daemon()
    return lab


@pytest.fixture
async def files(any_lab: Lab) -> AsyncIterator[StoreFiles]:
    metadata: StoreMetadata
    if any_lab.socket.exists():
        metadata = DaemonStore(any_lab.socket, any_lab.store_dir)
    else:
        metadata = SqliteStore(any_lab.database, any_lab.store_dir)
    files = StoreFiles(metadata=metadata, store_dir=any_lab.store_dir, real_store=any_lab.real_store)
    yield files
    files.close()
    await metadata.aclose()


async def contents(files: StoreFiles, store_path: StorePath, *components: bytes) -> bytes | None:
    found = await files.find(store_path.hash_part, components)
    if not isinstance(found, File):
        return None
    with found.download as download:
        return read_pieces(download.pieces(0, None))


async def test_files_links_and_directories_of_a_closure(any_lab: Lab, files: StoreFiles) -> None:
    closure = any_lab.closure
    top = closure.top
    assert await contents(files, top, b"foobar") == b"FOOBAR\n"
    # An absolute link names the logical store directory, wherever the files are.
    assert await contents(files, top, b"reference-to-input-2", b"bar") == b"BAR\n"
    assert await contents(files, top, b"reference-to-input-2", b"none") is None
    found = await files.find(top.hash_part, ())
    assert isinstance(found, Directory)
    assert found.store_path == top
    assert {entry.name: entry.kind for entry in found.entries} == {
        b"foobar": Kind.REGULAR,
        b"program": Kind.REGULAR,
        b"reference-to-input-2": Kind.SYMLINK,
        b"self": Kind.REGULAR,
    }
    assert [entry.name for entry in found.entries if entry.executable] == [b"program"]
    assert await contents(files, closure.derivation) is not None
    assert await files.find(HashPart.parse("0" * 32), ()) is None


async def test_what_was_deleted_or_never_registered_is_not_there(
    any_lab: Lab, files: StoreFiles, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    target = any_lab.add(_file(tmp_path / "target", b"target"))
    stray = any_lab.real_store / f"{'0' * 32}-stray"
    stray.write_bytes(b"stray")
    (tree / "valid").symlink_to(any_lab.full(target))
    (tree / "stray").symlink_to(f"{any_lab.store_dir}/{stray.name}")
    (tree / "passwd").symlink_to("/etc/passwd")
    path = any_lab.add(tree)
    assert await contents(files, path, b"valid") == b"target"
    assert await contents(files, path, b"stray") is None
    assert await contents(files, path, b"passwd") is None
    any_lab.delete(target)
    assert await files.find(path.hash_part, (b"valid",)) is None
    any_lab.delete(path)
    async with asyncio.timeout(30):
        while await files.find(path.hash_part, ()) is not None:  # noqa: ASYNC110  # it is known for a second after
            await asyncio.sleep(0.05)


async def test_a_cancelled_search_leaves_no_open_file(any_lab: Lab, files: StoreFiles) -> None:
    top = any_lab.closure.top
    await contents(files, top, b"foobar")
    for _ in range(200):
        task = asyncio.create_task(files.find(top.hash_part, (b"foobar",)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled():
            found = task.result()
            assert isinstance(found, File)
            found.download.release()
    del task
    # Searches that were under way end before this one does, or at the same time.
    async with asyncio.timeout(30):
        while _opened(top):  # noqa: ASYNC110  # the kernel has no event for it
            await asyncio.sleep(0.01)


async def test_a_metadata_that_cannot_tell_is_no_absence(any_lab: Lab, files: StoreFiles) -> None:
    if not any_lab.socket.exists():
        pytest.skip("there is a database, which needs nobody")
    any_lab.stop_daemon()
    with pytest.raises(DaemonError):
        await files.find(any_lab.closure.top.hash_part, ())


async def test_a_store_directory_that_is_not_there_is_no_absence(tmp_path: Path) -> None:
    store = PlainStore(tmp_path)
    files = StoreFiles(metadata=store, store_dir=store.store_dir, real_store=tmp_path / "none")
    try:
        with pytest.raises(StorageError):
            await files.find(HashPart.parse("0" * 32), ())
    finally:
        files.close()


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _opened(store_path: StorePath) -> bool:
    def target(fd: Path) -> str:
        try:
            return str(fd.readlink())
        except OSError:
            return ""

    return any(store_path in target(fd) for fd in Path("/proc/self/fd").iterdir())
