"""The local store as a source, over a real Nix store and its real daemon."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.cache.source import DocumentKind, Download, FileSlice
from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.daemon.store import DaemonStore
from harmonia_py.store.daemon.temp_roots import TempRoots
from harmonia_py.store.local import LocalStore

ABSENT = HashPart.parse("0" * 32)


@pytest.fixture
async def store(daemon: Lab) -> AsyncIterator[LocalStore]:
    metadata = DaemonStore(daemon.socket, daemon.store_dir, connections=1, request_timeout=30.0)
    roots = TempRoots(daemon.socket, daemon.store_dir, request_timeout=30.0)
    local = LocalStore(metadata=metadata, roots=roots, real_store=daemon.real_store, log_directory=daemon.log_dir)
    yield local
    local.close()
    await roots.aclose()
    await metadata.aclose()


def read(download: Download | None, start: int = 0, stop: int | None = None) -> bytes:
    assert download is not None
    data = []
    for piece in download.pieces(start, download.size if stop is None else stop):
        if isinstance(piece, FileSlice):
            data.append(os.pread(piece.fd, piece.size, piece.offset))
        else:
            assert isinstance(piece, bytes)
            data.append(piece)
    return b"".join(data)


async def test_the_nar_that_a_narinfo_names_is_what_nix_dumps(store: LocalStore, daemon: Lab) -> None:
    top = daemon.closure.top
    found = await store.narinfo(top.hash_part)
    assert found is not None
    assert (found.narinfo.path_info.store_path, found.narinfo.compression) == (top, "none")
    file_name, _, query = found.narinfo.url.removeprefix("nar/").partition("?hash=")
    expected = daemon.dump(top)
    assert Hash.of(expected) == found.narinfo.path_info.nar_hash == found.narinfo.file_hash
    assert len(expected) == found.narinfo.path_info.nar_size == found.narinfo.file_size
    for url in (NarUrl.parse(file_name, query), NarUrl(top.hash_part, None, "none")):
        download = await store.nar(url)
        assert download is not None
        with download:
            assert download.size == len(expected)
            assert download.etag == found.narinfo.path_info.nar_hash.nix32
            assert read(download) == expected
            assert read(download, 100, 333) == expected[100:333]


async def test_what_is_not_here_is_none(store: LocalStore, daemon: Lab) -> None:
    top = daemon.closure.top.hash_part
    assert await store.narinfo(ABSENT) is None
    assert await store.document(DocumentKind.LISTING, ABSENT) is None
    assert await store.document(DocumentKind.LOG, ABSENT) is None
    assert await store.nar(NarUrl(ABSENT, None, "none")) is None
    assert await store.nar(NarUrl(top, Hash.of(b"other"), "none")) is None
    # Compressing it is somebody else's business.
    assert await store.nar(NarUrl(top, None, "zstd")) is None


async def test_a_file_that_grew_is_never_sent_as_the_path_that_was_signed(store: LocalStore, daemon: Lab) -> None:
    file = daemon.real(daemon.closure.top) / "foobar"
    file.chmod(0o644)
    file.write_text("something else, and longer")
    with pytest.raises(StorePathChanged):
        await store.nar(NarUrl(daemon.closure.top.hash_part, None, "none"))


async def test_a_path_without_its_files_is_not_here_and_that_is_said(
    store: LocalStore, daemon: Lab, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It was an error, lest clients remember for an hour that it is absent. But an error ends their builds."""
    top = daemon.closure.top
    daemon.real(top).chmod(0o755)  # a user moves only what they may write to
    daemon.real(top).rename(tmp_path / "elsewhere")
    assert await store.nar(NarUrl(top.hash_part, None, "none")) is None
    assert await store.document(DocumentKind.LISTING, top.hash_part) is None
    assert await store.narinfo(top.hash_part) is None
    assert await store.is_damaged(top.hash_part)
    assert [record.levelname for record in caplog.records if f"{top} is damaged" in record.message] == ["CRITICAL"]
    (tmp_path / "elsewhere").rename(daemon.real(top))
    assert await store.narinfo(top.hash_part) is not None
    assert not await store.is_damaged(top.hash_part)


async def test_a_path_that_is_known_to_be_damaged_is_not_here_until_another_one_is_there(
    store: LocalStore, daemon: Lab, tmp_path: Path
) -> None:
    top = daemon.closure.top
    shutil.copytree(daemon.real(top), tmp_path / "right", symlinks=True)
    found = await store.narinfo(top.hash_part)
    assert found is not None
    assert await store.note_damage(found.narinfo.path_info, "as a test wants it")
    assert await store.narinfo(top.hash_part) is None
    assert await store.nar(NarUrl(top.hash_part, None, "none")) is None
    for directory in (daemon.real(top), tmp_path / "right"):
        directory.chmod(0o755)  # a user moves only what they may write to
    daemon.real(top).rename(tmp_path / "wrong")
    (tmp_path / "right").rename(daemon.real(top))
    assert await store.narinfo(top.hash_part) is not None


async def test_idle_waits_for_the_last_download(store: LocalStore, daemon: Lab) -> None:
    url = NarUrl(daemon.closure.top.hash_part, None, "none")
    await store.idle()
    first, second = await store.nar(url), await store.nar(url)
    assert first is not None
    assert second is not None
    with second:
        with first:
            pass
        waiting = asyncio.create_task(store.idle())
        await asyncio.sleep(0)
        assert not waiting.done()
    await waiting


async def test_a_path_that_is_being_sent_is_not_collected(store: LocalStore, daemon: Lab) -> None:
    top = daemon.closure.top
    download = await store.nar(NarUrl(top.hash_part, None, "none"))
    assert download is not None
    with download:
        expected = daemon.dump(top)
        daemon.nix_store("--gc")
        assert daemon.is_valid(top)
        assert read(download) == expected


async def test_a_listing_has_the_offsets_of_the_nar(store: LocalStore, daemon: Lab) -> None:
    top = daemon.closure.top
    wanted = await store.document(DocumentKind.LISTING, top.hash_part)
    assert wanted is not None
    assert wanted.made is not None
    listing = json.loads(read(await wanted.made()))
    entry = listing["root"]["entries"]["foobar"]
    contents = (daemon.real(top) / "foobar").read_bytes()
    assert daemon.dump(top)[entry["narOffset"] :][: entry["size"]] == contents


async def test_a_log_outlives_its_derivation(store: LocalStore, daemon: Lab) -> None:
    derivation = daemon.closure.derivation
    daemon.nix_store("--gc")
    assert not daemon.is_valid(derivation)
    for named in (derivation, derivation.hash_part):
        assert read(await store.document(DocumentKind.LOG, named)) == b"FOO-log-line\n"
