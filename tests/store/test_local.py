"""The local store as a source, over a real Nix store and its real daemon."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from lab import Lab

from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.errors import StorePathChanged
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import HashPart
from harmonia_py.store.daemon import DaemonStore
from harmonia_py.store.local import LocalStore
from harmonia_py.store.roots import TempRoots

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
    narinfo = await store.narinfo(top.hash_part)
    assert narinfo is not None
    assert (narinfo.path_info.store_path, narinfo.compression) == (top, "none")
    file_name, _, query = narinfo.url.removeprefix("nar/").partition("?hash=")
    expected = daemon.dump(top)
    assert Hash.of(expected) == narinfo.path_info.nar_hash == narinfo.file_hash
    assert len(expected) == narinfo.path_info.nar_size == narinfo.file_size
    for url in (NarUrl.parse(file_name, query), NarUrl(top.hash_part, None, "none")):
        download = await store.nar(url)
        assert download is not None
        with download:
            assert download.size == len(expected)
            assert download.etag == narinfo.path_info.nar_hash.nix32
            assert read(download) == expected
            assert read(download, 100, 333) == expected[100:333]


async def test_what_is_not_here_is_none(store: LocalStore, daemon: Lab) -> None:
    top = daemon.closure.top.hash_part
    assert await store.narinfo(ABSENT) is None
    assert await store.listing(ABSENT) is None
    assert await store.log(ABSENT) is None
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


async def test_a_path_without_its_files_is_an_error_and_not_absent(
    store: LocalStore, daemon: Lab, tmp_path: Path
) -> None:
    """A client would remember for an hour that it is absent; but it is this store that is broken."""
    daemon.real(daemon.closure.top).rename(tmp_path / "elsewhere")
    with pytest.raises(StorePathChanged):
        await store.nar(NarUrl(daemon.closure.top.hash_part, None, "none"))
    with pytest.raises(StorePathChanged):
        await store.listing(daemon.closure.top.hash_part)


async def test_idle_waits_for_the_last_download(store: LocalStore, daemon: Lab) -> None:
    url = NarUrl(daemon.closure.top.hash_part, None, "none")
    await store.idle()
    first, second = await store.nar(url), await store.nar(url)
    assert first is not None
    assert second is not None
    with second:
        with first:
            pass
        assert not store._idle.is_set()
    await store.idle()


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
    listing = json.loads(read(await store.listing(top.hash_part)))
    entry = listing["root"]["entries"]["foobar"]
    contents = (daemon.real(top) / "foobar").read_bytes()
    assert daemon.dump(top)[entry["narOffset"] :][: entry["size"]] == contents


async def test_a_log_outlives_its_derivation(store: LocalStore, daemon: Lab) -> None:
    derivation = daemon.closure.derivation
    daemon.nix_store("--gc")
    assert not daemon.is_valid(derivation)
    for named in (derivation, derivation.hash_part):
        assert read(await store.log(named)) == b"FOO-log-line\n"
