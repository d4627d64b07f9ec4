"""Directories of releases without a catalog are taken over once, without reading a file, whenever that is cut off."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path

import pytest
from catalogs import NOW, hash_part, opened_catalog, path_info, store_path
from msgspec.structs import replace
from old_release import put, put_mismatch, put_nar, put_narinfo

from harmonia_py.catalog.caches import MIRROR, STORE
from harmonia_py.catalog.collector import Collector, Delete
from harmonia_py.catalog.last_uses import LastUses
from harmonia_py.catalog.objects import DocumentKind
from harmonia_py.catalog.takeover import Takeover
from harmonia_py.contents.blobs import Blob, BlobInfo, BlobKey
from harmonia_py.contents.kept_files import Mismatch
from harmonia_py.database.catalog import SqlCatalog
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.storage.disk import DiskBlobs
from harmonia_py.wiring.replaceable_housekeeping import kept_ports

# How the upstream compresses what is kept: that way, or re-coded to zstd.
SAID = {"xz": "xz", "recoded": "xz", "plain": "none"}


class Unread:
    """A `BlobStore` whose files cannot be read, and that is cut off after so many steps."""

    def __init__(self, blobs: DiskBlobs, steps: int = 10**9) -> None:
        self._blobs = blobs
        self._steps = steps

    async def open(self, key: BlobKey) -> Blob | None:
        raise AssertionError(f"{key} was read")

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        self._step()
        return await self._blobs.metadata(key)

    async def delete(self, key: BlobKey) -> None:
        self._step()
        await self._blobs.delete(key)

    async def list(self) -> AsyncIterator[BlobInfo]:
        async for info in self._blobs.list():
            yield info

    def _step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise StorageError("killed")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """All kinds of files that the last release left."""
    directory = tmp_path / "cache"
    put_nar(directory, path_info("compressed"), "zstd", b"zstd of the store", NOW - 100)
    put_nar(directory, path_info("same-name"), "zstd", b"the same bytes", NOW - 90)
    put_nar(directory, path_info("other-name", nar="same-name"), "zstd", b"the same bytes", NOW - 80)
    for name, compression, age in (("xz", "xz", 50), ("recoded", "zstd", 40), ("plain", "none", 30)):
        info = path_info(name, ["compressed", name])
        ca = {"ca": "fixed:r:sha256:x"} if name == "plain" else {}
        put_nar(directory, info, compression, name.encode(), NOW - age, **ca)
        said = NarInfo(path_info=info, url=f"nar/{name}?a=b", compression=SAID[name], file_size=77)
        put_narinfo(directory, said, "cache.example.org", NOW - 1000.5, 86_400.0)
    many = path_info("many", [f"reference-{number}" for number in range(60)])
    put_nar(directory, many, "zstd", b"many", NOW - 20)
    put_narinfo(directory, NarInfo(path_info=many, url="nar/x", compression="zstd"), "other", NOW - 5.0, 1.0)
    gone = NarInfo(path_info=path_info("gone"), url="nar/gone.nar.xz", compression="xz")
    put_narinfo(directory, gone, "cache.example.org", NOW - 10.0, 1.0)
    put(directory, f"{hash_part('xz')}.ls", b"{}", {"file_hash": str(Hash.of(b"{}"))}, NOW - 50)
    put(directory, f"{store_path('a.drv')}.log", b"log", {"file_hash": str(Hash.of(b"log"))}, NOW - 60)
    doi = {"realisation": '{"id":"x"}', "upstream": "cache.example.org"}
    put(directory, f"{Hash.of(b'x!out').nix32}.doi", b"", doi, NOW - 70)
    damaged = path_info("damaged")
    put_mismatch(directory, "damaged.nar.zst", damaged.store_path, damaged.nar_hash, None)
    put(directory, "no-metadata.nar", b"x", {}, NOW)
    return directory


@pytest.fixture
async def catalog(tmp_path: Path) -> AsyncIterator[SqlCatalog]:
    async with opened_catalog("sqlite", tmp_path / "catalog") as catalog:
        yield catalog


def takeover(blobs: Unread, catalog: SqlCatalog) -> Takeover:
    ports = kept_ports(catalog, LastUses(catalog.objects))
    return Takeover(blobs, ports, StoreDir("/nix/store"), clock=lambda: NOW)  # type: ignore[arg-type]


async def check(blobs: DiskBlobs, catalog: SqlCatalog) -> None:
    compressed = await catalog.objects.find(STORE, hash_part("compressed"))
    assert compressed is not None
    assert compressed.path_info == path_info("compressed")
    assert compressed.file.file_hash == Hash.of(b"zstd of the store")
    assert (compressed.used, compressed.file.file_size) == (NOW - 100, 17)
    same = [await catalog.objects.find(STORE, hash_part(name)) for name in ("same-name", "other-name")]
    assert same[0] is not None
    assert same[1] is not None
    assert same[0].file == same[1].file
    for name, compression, age in (("xz", "xz", 50), ("recoded", "zstd", 40), ("plain", "none", 30)):
        kept = await catalog.mirrored.find(hash_part(name))
        assert kept is not None
        said = NarInfo(
            path_info=path_info(name, ["compressed", name]),
            url=f"nar/{name}?a=b",
            compression=SAID[name],
            file_size=77,
        )
        assert kept.upstream_narinfo.narinfo == said
        assert (kept.upstream_narinfo.upstream, kept.upstream_narinfo.fetched) == ("cache.example.org", NOW - 1000.5)
        assert (kept.stored.file.compression, kept.stored.used) == (compression, NOW - age)
        assert kept.stored.verified_ca == ("fixed:r:sha256:x" if name == "plain" else None)
    many = await catalog.mirrored.find(hash_part("many"))
    assert many is not None
    assert len(many.stored.path_info.references) == 60
    assert await catalog.mirrored.find(hash_part("gone")) is None
    listing = await catalog.objects.document(MIRROR, DocumentKind.LISTING, hash_part("xz"))
    assert listing is not None
    assert listing.blob_key == f"{hash_part('xz')}.ls"
    assert await catalog.objects.document(MIRROR, DocumentKind.LOG, store_path("a.drv"), pending=True) is not None
    realisation = await catalog.mirrored.realisation(Hash.of(b"x!out").nix32)
    assert realisation is not None
    assert realisation.text == b'{"id":"x"}'
    [mismatch] = await catalog.mismatches.all(10)
    damaged = path_info("damaged")
    assert mismatch == Mismatch(store_path=damaged.store_path, expected=damaged.nar_hash, actual=None, found=NOW)
    left = {info.key async for info in blobs.list()}
    assert not [key for key in left if key.endswith((".narinfo", ".doi", ".mismatch"))]


async def test_everything_is_kept_and_nothing_is_read(directory: Path, catalog: SqlCatalog) -> None:
    async with DiskBlobs(directory) as blobs:
        assert await takeover(Unread(blobs), catalog).run() == 11
        await check(blobs, catalog)
        before = {info.key async for info in blobs.list()}
        # Of two files with equal bytes one is enough.
        collector = Collector(catalog.collection, catalog.garbage, _deleter(blobs))
        assert (await collector.empty_garbage(NOW)).deleted == 1
        after = {info.key async for info in blobs.list()}
        assert len(before - after) == 1
        assert next(iter(before - after)).startswith((hash_part("same-name"), hash_part("other-name")))
        assert await takeover(Unread(blobs), catalog).run() == 0
        await check(blobs, catalog)


async def test_wherever_it_is_killed_the_next_start_goes_on(directory: Path, catalog: SqlCatalog) -> None:
    async with DiskBlobs(directory) as blobs:
        for steps in range(60):
            try:
                await takeover(Unread(blobs, steps), catalog).run()
            except StorageError:
                continue
            break
        else:
            pytest.fail("it never got to its end")
        assert steps > 3
        await check(blobs, catalog)


async def test_what_was_kept_stays_in_use_in_the_order_of_its_last_uses(directory: Path, catalog: SqlCatalog) -> None:
    async with DiskBlobs(directory) as blobs:
        await takeover(Unread(blobs), catalog).run()
        store = await catalog.collection.candidates(STORE, None, 10, now=NOW)
        assert [one.aged_from for one in store] == [NOW - 100, NOW - 90, NOW - 80]
        mirror = await catalog.collection.candidates(MIRROR, None, 10, now=NOW)
        assert [one.aged_from for one in mirror] == [NOW - 50, NOW - 40, NOW - 30, NOW - 20]


async def test_a_file_that_was_written_and_not_named_is_named_at_the_next_start(
    directory: Path, catalog: SqlCatalog
) -> None:
    async with DiskBlobs(directory) as blobs:
        await takeover(Unread(blobs), catalog).run()
        await Collector(catalog.collection, catalog.garbage, _deleter(blobs)).empty_garbage(NOW)
        info = replace(path_info("compressed"), nar_hash=Hash.of(b"built anew"))
        await asyncio.to_thread(put_nar, directory, info, "zstd", b"anew", NOW - 1)
        assert await takeover(Unread(blobs), catalog).run() == 1
        found = await catalog.objects.find(STORE, hash_part("compressed"))
        assert found is not None
        assert found.path_info.nar_hash == Hash.of(b"built anew")


async def test_a_narinfo_that_cannot_be_read_costs_no_nar_and_does_not_stay(
    tmp_path: Path, catalog: SqlCatalog
) -> None:
    """The NAR is checked already: without the words of the upstream it is what the local store had."""
    directory, whole, alone = tmp_path / "cache", path_info("whole"), path_info("alone")
    for number in range(70):  # more than are looked at together
        put_nar(directory, path_info(f"other-{number}"), "zstd", str(number).encode(), NOW - 10)
    put_nar(directory, whole, "zstd", b"whole", NOW - 10)
    for info in (whole, alone):
        put(directory, f"{info.store_path.hash_part}.narinfo", b"", {"narinfo": "StorePath: x"}, NOW - 10)
    unknown = NarInfo(path_info=path_info("odd"), url="nar/odd.nar.lrz", compression="lrzip")
    put_narinfo(directory, unknown, "cache.example.org", NOW - 10.0, 1.0)
    async with DiskBlobs(directory) as blobs:
        assert await takeover(Unread(blobs), catalog).run() == 71
        found = await catalog.objects.find(STORE, whole.store_path.hash_part)
        assert found is not None
        assert found.path_info == whole
        assert not [info.key async for info in blobs.list() if info.key.endswith(".narinfo")]


def _deleter(blobs: DiskBlobs) -> Delete:
    async def delete(keys: Sequence[str]) -> Collection[str]:
        for key in keys:
            await blobs.delete(BlobKey(key))
        return ()

    return delete
