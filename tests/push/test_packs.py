"""Packs: collected, written anew, lost and rotten, and the steps of making chunks cut short."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import backing
import pytest
from chunking import HELLO, LIBRARY, OTHER, make_chunks, nar_of, program
from house import House, blob, download, status, team
from msgspec.structs import replace
from pushed_paths import PATH, REFERENCE, Pushed, push, pushed
from pushing import TEAM
from serving import TIME_LIMIT
from waiting import eventually

from harmonia_py.cache.source import Download, FileSlice
from harmonia_py.catalog.caches import CHUNKS, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Scope
from harmonia_py.catalog.strays import discard_strays
from harmonia_py.chunks import packing
from harmonia_py.chunks.catalog import PackedChunk, Place
from harmonia_py.chunks.deduplication import Deduplication
from harmonia_py.chunks.pack_collector import SET_ASIDE_SECONDS, PacksCollected
from harmonia_py.chunks.pack_frames import frames_of
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.contents import pieces
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.pieces import portions, read_slice, whole_portions
from harmonia_py.database.transaction import ask
from harmonia_py.errors import HarmoniaError, StorageError, StorePathChanged
from harmonia_py.metrics import families
from harmonia_py.nix import base32
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.claims import PushedFile
from harmonia_py.runtime.slices import read_file
from harmonia_py.wiring.deduplicating import deduplication

DAY = 86_400


def another(seed: int, size: int = 300_000) -> Pushed:
    path = StorePath(f"{base32.encode(Hash.of(str(seed).encode()).digest[:20])}-other-{seed}")
    return pushed(path, program(path, size, seed), REFERENCE, compression="zstd")


async def delete(house: House, *what: Pushed) -> None:
    row = await house.server.catalog.caches.find(TEAM)
    assert row is not None
    parts = [one.path.hash_part for one in what]
    deleted = await house.server.catalog.deletions.delete(
        row.id, parts, deleted_by="test", despite_pushes=True, now=house.server.node.now()
    )
    assert len(deleted.paths) == len(what)


async def collect(house: House, ahead: float = 7 * DAY) -> PacksCollected:
    """All passes that have something to do, then the bytes."""
    await house.look(ahead)
    total = PacksCollected()
    while (done := await house.server.node.chunking.pack_collector().run()) != PacksCollected():
        total = PacksCollected(
            total.uses + done.uses,
            total.removed + done.removed,
            total.removed_bytes + done.removed_bytes,
            total.written_bytes + done.written_bytes,
        )
    await house.look(ahead + DAY)
    return total


def packs(house: House) -> set[str]:
    return {file for file in house.files() if file.startswith("packs/")}


async def check(house: House, *what: Pushed) -> None:
    """The NAR of each is the one that was pushed."""
    for one in what:
        answer = await download(house, one)
        assert answer.status == 200
        assert nar_of(answer.body) == nar_of(one.data)


async def test_what_nothing_needs_any_more_goes_to_the_last_byte(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    await collect(house)
    await delete(house, HELLO)
    await delete(house, LIBRARY)
    assert (await collect(house)).removed == 1
    assert house.files() == {"team/nix-cache-info"}


async def as_exported(house: House, what: Pushed) -> Pushed:
    """The file that clients see of it, to be pushed."""
    data = (await download(house, what)).body
    file = PushedFile(Hash.of(data), "zstd")
    claim = replace(what.claim, url=f"nar/{file}", file_hash=file.file_hash, file_size=len(data))
    return Pushed(data, claim)


async def test_what_export_wrote_becomes_chunks_once_more_and_goes_to_the_last_byte(house: House) -> None:
    """Cutting makes the very file that was pushed: it stayed whole, and its chunks for ever."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    exported = [await as_exported(house, one) for one in (LIBRARY, HELLO)]
    for one in (HELLO, LIBRARY):
        await delete(house, one)
    await collect(house)
    await house.published(*exported)
    assert {blob(one) for one in exported} < house.files()
    assert (await make_chunks(house)).files == 2
    assert (await make_chunks(house)).files == 0
    await collect(house)
    assert not {blob(one) for one in exported} & house.files()
    await check(house, *exported)
    for one in (HELLO, LIBRARY):
        await delete(house, one)
    await collect(house)
    assert house.files() == {"team/nix-cache-info"}


async def test_a_pack_of_which_little_is_needed_is_written_anew(house: House) -> None:
    small, large = another(1, 100_000), another(2, 900_000)
    await house.published(LIBRARY, small, large)
    await make_chunks(house)
    (before,) = packs(house)
    size = (house.server.directory / before).stat().st_size
    await delete(house, large)
    done = await collect(house)
    (after,) = packs(house)
    assert after != before
    assert (done.removed, done.removed_bytes) == (1, size)
    assert (house.server.directory / after).stat().st_size == done.written_bytes < size / 2
    await check(house, small, LIBRARY)


async def test_a_pack_stays_while_most_of_it_is_needed(house: House) -> None:
    small, large = another(1, 100_000), another(2, 900_000)
    await house.published(LIBRARY, small, large)
    await make_chunks(house)
    before = packs(house)
    await delete(house, small)
    assert (await collect(house)).removed == 0
    assert packs(house) == before
    await check(house, large)


async def test_short_packs_become_one(house: House) -> None:
    """A cache that is pushed to a little every day would have a pack for each of its days."""
    await house.published(LIBRARY)
    all_of_them = [another(seed, 30_000) for seed in range(9)]
    for one in all_of_them:
        await house.published(one)
        await make_chunks(house)
    assert len(packs(house)) == 9
    await collect(house)
    assert len(packs(house)) == 1
    await check(house, LIBRARY, *all_of_them)


async def test_a_chunk_that_is_needed_again_before_its_pack_goes_is_found_there(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    await delete(house, HELLO)
    await house.look(7 * DAY)
    again = pushed(OTHER, program(OTHER), REFERENCE, compression="zstd")
    await house.published(again)
    assert (await make_chunks(house)).new_bytes == 0
    await collect(house)
    await check(house, again)


async def test_a_reader_that_has_begun_is_not_disturbed_by_a_pack_that_is_written_anew(house: House) -> None:
    small, large = another(1, 400_000), another(2, 2_000_000)
    await house.published(LIBRARY, small, large)
    await make_chunks(house)
    found = await house.server.catalog.packs.to_look_at(10, now=house.server.node.now())
    assert found
    info = await house.server.get(f"/{small.path.hash_part}.narinfo")
    key = next(
        file for file in house.files() if file.startswith("recipes/") and file.split("/")[1] in info.body.decode()
    )
    nar = await house.server.node.chunking.files.open(key, "")
    assert nar is not None
    with nar:
        pieces = nar.pieces(0, None)
        pause = next(pieces)
        assert not isinstance(pause, bytes)
        await pause.wait()  # type: ignore[union-attr]
        await delete(house, large)
        await collect(house)
        rest = await asyncio.to_thread(_read, pieces)
    assert nar_of(rest) == nar_of(small.data)


def _read(pieces: Any) -> bytes:
    out = b""
    for piece in pieces:
        if isinstance(piece, bytes):
            out += piece
        elif hasattr(piece, "fd"):
            out += os.pread(piece.fd, piece.size, piece.offset)
        else:
            piece.wait_in_thread()
    return out


async def test_a_lost_pack_cuts_hides_and_is_healed_by_the_next_push(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    await collect(house)
    for pack in packs(house):
        (house.server.directory / pack).unlink()
    assert not await is_whole(house, HELLO, "zstd")
    assert [await status(house, path) for path in (PATH, REFERENCE)] == [404, 404]
    assert (await push(house.server, LIBRARY, run="r2")).status == 200
    assert (await push(house.server, HELLO, run="r2")).status == 200
    await check(house, LIBRARY, HELLO)
    assert (await make_chunks(house)).new_bytes > 0
    await check(house, LIBRARY, HELLO)


async def test_a_rotten_chunk_never_becomes_a_wrong_nar(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    await rot(house)
    assert not await is_whole(house, HELLO, "none")
    assert await status(house, PATH) == 404


async def rot(house: House) -> None:
    """Change a byte in the middle of a chunk of `HELLO`."""
    (pack,) = packs(house)
    with (house.server.directory / pack).open("r+b") as file:
        file.seek(200_000)
        byte = file.read(1)
        file.seek(200_000)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(house.server.directory / pack, ns=(1_000_000_000, 1_000_000_000))  # as a disk does that rots


async def test_a_rotten_chunk_is_stored_anew_when_another_nar_brings_it(house: House) -> None:
    """It counted as one that is there: no NAR that has it became chunks until its pack was written anew."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    await rot(house)
    other = pushed(OTHER, program(OTHER), REFERENCE, compression="zstd")
    await house.published(other)
    first = await make_chunks(house)
    assert (first.files, first.left) == (0, 1)
    await check(house, other)
    then = await make_chunks(house)
    assert (then.files, then.left) == (1, 0)
    assert 0 < then.new_bytes < len(other.data) // 2, "only what is wrong"
    await check(house, other)
    assert (await push(house.server, HELLO, run="r2")).status == 200
    await make_chunks(house)
    await check(house, LIBRARY, HELLO, other)


async def test_wrong_chunks_are_looked_for_in_portions_for_which_no_reader_waits(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The places of all chunks of a NAR were asked for at once, on the one connection of the readers of SQLite."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    catalog, files = house.server.catalog, house.server.node.chunking.files
    (pack,) = await catalog.packs.to_look_at(10, now=house.server.node.now())
    every = [one.chunk for one in pack.chunks]
    await rot(house)
    asked: list[int] = []
    scan_places = catalog.chunks.scan_places

    async def note(chunks: Sequence[ChunkHash]) -> Mapping[ChunkHash, Place]:
        asked.append(len(chunks))
        return await scan_places(chunks)

    async def refuse(*_: object) -> None:
        raise AssertionError("readers wait")

    recipes = [await files.recipe(key) for key in house.files() if key.startswith("recipes/")]
    assert len(recipes) == 2
    with monkeypatch.context() as patch:
        patch.setattr("harmonia_py.chunks.chunked_files._LOOKED_UP", 2)
        patch.setattr(catalog.chunks, "scan_places", note)
        patch.setattr(type(catalog.database), "read", refuse)
        for recipe in recipes:
            assert recipe is not None
            await files.lose_wrong(recipe)
    assert max(asked) == 2
    assert sum(asked) >= len(every)
    assert len(await catalog.chunks.known(every)) == len(every) - 1


async def test_wrong_chunks_are_looked_for_a_while_at_a_time(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunks of a NAR of terabytes were all read in one go, and meanwhile nothing was collected."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    catalog, files = house.server.catalog, house.server.node.chunking.files
    (pack,) = await catalog.packs.to_look_at(10, now=house.server.node.now())
    every = [one.chunk for one in pack.chunks]
    await rot(house)
    recipes = [await files.recipe(key) for key in house.files() if key.startswith("recipes/")]
    monkeypatch.setattr("harmonia_py.chunks.chunked_files._LOOKED_UP", 1)
    monkeypatch.setattr("harmonia_py.chunks.chunked_files._LOOKING_SECONDS", 0.0)
    read: list[int] = []
    scan_places = catalog.chunks.scan_places

    async def note(chunks: Sequence[ChunkHash]) -> Mapping[ChunkHash, Place]:
        read[-1] += 1
        return await scan_places(chunks)

    monkeypatch.setattr(catalog.chunks, "scan_places", note)
    for _ in every:
        for recipe in recipes:
            assert recipe is not None
            read.append(0)
            await files.lose_wrong(recipe)
    assert set(read) == {1}
    assert len(await catalog.chunks.known(every)) == len(every) - 1


@pytest.mark.skipif(backing.IN_BUCKET, reason="a read of the disk fails")
async def test_a_chunk_that_cannot_be_read_for_a_moment_hides_no_path(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale handle of NFS, met while another NAR became chunks, hid all paths that had their chunks in that pack."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    catalog, node = house.server.catalog, house.server.node
    (pack,) = await catalog.packs.to_look_at(10, now=node.now())
    every = [one.chunk for one in pack.chunks]
    await house.published(pushed(OTHER, program(OTHER), REFERENCE, compression="zstd"))

    def read(fd: int, offset: int, size: int, buffer: bytearray) -> Iterator[memoryview]:
        name = Path(f"/proc/self/fd/{fd}").readlink().relative_to(house.server.directory)
        if str(name) == pack.key:
            raise StorageError("cannot read a file: Stale file handle")
        return read_file(fd, offset, size, buffer)

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "read_file", read)
        done = await make_chunks(house)
    assert (done.files, done.left) == (0, 1)
    assert set(await catalog.chunks.known(every)) == set(every)
    await check(house, LIBRARY, HELLO)
    assert (await make_chunks(house)).files == 1


async def test_a_chunk_that_was_compressed_in_another_way_since_is_not_lost(house: House) -> None:
    """The first reader of an old file marked it lost, and hid all files that were made of it as it is now."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    node, catalog = house.server.node, house.server.catalog
    (pack,) = await catalog.packs.to_look_at(10, now=node.now())
    longer = PackedChunk(pack.chunks[0].chunk, 0, pack.chunks[0].size + 1)
    await node.blobs.put(BlobKey("packs/longer"), bytes(longer.size), {})
    await catalog.packs.add("packs/longer", longer.size, [longer], now=node.now())
    assert not all([await is_whole(house, what, "zstd") for what in (LIBRARY, HELLO)])
    assert await catalog.chunks.known([longer.chunk]) == {longer.chunk: longer.size}


async def is_whole(house: House, what: Pushed, compression: str) -> bool:
    """Whether a NAR comes to its end: what has begun before it was found out is cut."""
    url = NarUrl(what.path.hash_part, what.claim.path_info.nar_hash, compression)
    try:
        return (await house.server.get(f"/{url}")).status == 200
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def test_the_scrub_reads_files_that_are_made_of_chunks(house: House) -> None:
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    rows = await house.server.catalog.file_checks.page(None, 10)
    async with house.server.node.chunking.digests() as digests:
        for row in rows:
            digest = await digests.digest(BlobKey(row.blob_key))
            assert digest is not None
            assert (digest.file_hash, digest.file_size) == (row.file_hash, row.file_size)
        for pack in packs(house):
            os.truncate(house.server.directory / pack, 1000)
        broken = [await digests.digest(BlobKey(row.blob_key), rate=1e9) for row in rows]
    assert any(digest is None or digest.file_hash is None for digest in broken)


@pytest.mark.parametrize("what", ["places", "open"])
async def test_what_cannot_be_told_for_now_is_no_fault_of_a_file(
    house: House, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """While the catalog was away, the scrub took files for rotten whose chunks were all there, and hid their paths."""
    await house.published(LIBRARY, HELLO)
    await make_chunks(house)
    node, chunks = house.server.node, house.server.catalog.chunks

    async def fail(*_: object) -> None:
        raise StorageError("not now")

    async with node.chunking.digests() as digests:
        for row in await house.server.catalog.file_checks.page(None, 10):
            with monkeypatch.context() as patch:
                patch.setattr(chunks if what == "places" else node.blobs, what, fail)
                with pytest.raises(StorageError, match="not now"):
                    await digests.digest(BlobKey(row.blob_key))
            digest = await digests.digest(BlobKey(row.blob_key))
            assert digest is not None
            assert digest.file_hash == row.file_hash


@pytest.mark.skipif(backing.IN_BUCKET, reason="a read of the disk fails")
@pytest.mark.parametrize("error", [StorageError, StorePathChanged])
@pytest.mark.parametrize(("place", "files"), [("nar/", 1), ("packs/", 0)])
async def test_a_file_that_cannot_be_read_stays_as_it_is_and_the_others_become_chunks(
    house: House, monkeypatch: pytest.MonkeyPatch, error: type[HarmoniaError], place: str, files: int
) -> None:
    """One bad block ended each pass at the same file: nothing behind it became chunks any more."""
    await house.published(LIBRARY, HELLO)

    def read(piece: FileSlice, buffer: bytearray) -> Iterator[memoryview]:
        name = Path(f"/proc/self/fd/{piece.fd}").readlink().relative_to(house.server.directory)
        if str(name) == blob(HELLO) or (str(name).startswith("packs/") and place == "packs/"):
            raise error("cannot read a file")
        return read_slice(piece, buffer)

    with monkeypatch.context() as patch:
        patch.setattr(packing, "portions", partial(portions, read=read))
        patch.setattr(packing, "whole_portions", partial(whole_portions, read=read))
        assert (await make_chunks(house)).files == files
    await check(house, LIBRARY, HELLO)
    assert blob(HELLO) in house.files()


async def test_a_file_that_cannot_be_opened_stays_as_it_is(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await house.published(LIBRARY, HELLO)
    node = house.server.node
    open_blob = node.open_blob

    async def open_or_fail(key: str) -> Download | None:
        if key == blob(HELLO):
            raise StorageError("cannot open a file")
        return await open_blob(key)

    with monkeypatch.context() as patch:
        patch.setattr(node, "open_blob", open_or_fail)
        assert (await make_chunks(house)).files == 1
    assert (await make_chunks(house)).files == 1


async def test_the_job_goes_on_after_any_error_of_ours(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ended for good at the first that was not a `StorageError`."""
    passes, second = 0, asyncio.Event()

    async def scopes() -> list[Scope]:
        nonlocal passes
        passes += 1
        if passes == 2:
            second.set()
        raise StorePathChanged("a file has become shorter")

    monkeypatch.setattr("harmonia_py.chunks.deduplication._SECONDS", 0.0)
    job = asyncio.create_task(deduplication(house.server.node, scopes, house.metrics).run())
    waiting = asyncio.create_task(second.wait())
    await asyncio.wait({job, waiting}, timeout=60, return_when=asyncio.FIRST_COMPLETED)
    assert (job.done(), waiting.done()) == (False, True)
    job.cancel()
    assert house.counted(families.chunks.DEDUPLICATION_ERRORS, "pushed") >= 1
    last = await house.server.catalog.chunk_work.last()
    assert last is not None
    assert (last.error, last.ended) == ("a file has become shorter", None)


async def test_the_job_does_not_ask_the_storage_for_caches_that_want_no_chunks(house: House) -> None:
    """While a bucket was away, the log said each minute that nothing is made into chunks, which no cache wanted."""

    def collecting(_: float) -> AbstractAsyncContextManager[bool]:
        raise StorageError("the bucket cannot be reached")

    row, settings = await team(house), CacheSettings()

    async def scopes() -> list[Scope]:
        return [Scope(cache=row.id, settings=settings, deleted=False)]

    job = deduplication(house.server.node, scopes, house.metrics, collecting=collecting)
    assert await job.look() == 0
    assert house.shown(families.chunks.DEDUPLICATION_TIME, "pushed") > 0
    settings = CacheSettings(deduplicate=CHUNKS)
    with pytest.raises(StorageError, match="the bucket cannot be reached"):
        await job.look()


async def test_the_job_counts_anew_what_a_release_before_the_totals_has_left_wrong(house: House) -> None:
    """Such a release removed packs beside a newer one, and what was shown of them stayed too large for ever."""
    await house.server.catalog.database.write(
        lambda: ask("update totals set objects = 3, size = 300 where state = 'packs'")
    )
    await (await job_of(house)).look()
    assert house.shown(families.chunks.PACK_BYTES, "pushed", "unused") == 0
    assert await house.server.catalog.repairs.wrong_totals() == []


async def test_a_change_that_the_catalog_could_not_tell_ends_the_pause_once_it_can(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change had been seen, and a cache that was switched waited for the end of the pause."""
    looks = 0

    async def scopes() -> list[Scope]:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise StorageError("the catalog does not answer")
        return []

    monkeypatch.setattr("harmonia_py.chunks.deduplication._CHANGE_SECONDS", 0.01)
    job = deduplication(house.server.node, scopes, house.metrics)
    async with asyncio.timeout(TIME_LIMIT):
        await job._pause(2 * TIME_LIMIT, "before the change")
    assert looks == 2


async def test_what_the_job_does_and_what_chunks_save_is_shown(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonia_py.chunks.deduplication._PASS_SECONDS", 3600.0)  # a busy machine takes long
    small, large = another(1, 100_000), another(2, 900_000)
    await house.published(LIBRARY, small, large)
    before = sum(len(one.data) for one in (LIBRARY, small, large))
    job, row = await job_of(house), await team(house)
    house.clock.ahead = DAY
    work = house.server.catalog.chunk_work
    assert await job.look() > 1_000_000
    shown = {
        family: house.shown(family, "pushed")
        for family in (families.chunks.CHUNKED_FILES, families.chunks.CHUNKED_BYTES)
    }
    assert shown == {families.chunks.CHUNKED_FILES: 3, families.chunks.CHUNKED_BYTES: before}
    (pack,) = packs(house)
    size = (house.server.directory / pack).stat().st_size
    assert house.shown(families.chunks.PACK_BYTES, "pushed", "used") == size
    assert house.shown(families.chunks.PACK_BYTES, "pushed", "unused") == 0
    assert house.counted(families.chunks.DEDUPLICATED_FILES, "pushed", "chunks") == 3
    assert house.shown(families.chunks.DEDUPLICATION_WAITING, "pushed") == 0
    assert abs(house.shown(families.chunks.DEDUPLICATION_TIME, "pushed") - house.clock()) < 60
    assert await work.chunked(row.id) == 3
    # A third of the pack goes: it is short, and stays as it is.
    await delete(house, small)
    await house.look(8 * DAY)
    await job.look()
    figures = await work.figures()
    assert (figures.files, figures.packs, figures.pack_size) == (2, 1, size)
    assert 0 < house.shown(families.chunks.PACK_BYTES, "pushed", "unused") == size - figures.used_size < size // 2
    assert await house.server.catalog.repairs.wrong_totals() == []


async def test_a_process_that_looks_after_the_caches_no_more_shows_nothing_of_them(house: House) -> None:
    """Where another one took over, the figures of the first stayed: sums counted twice, and its alerts went on."""
    await house.published(LIBRARY)
    job = await job_of(house)
    house.clock.ahead = DAY
    running = asyncio.create_task(job.run())
    await eventually(lambda: house.shown(families.chunks.CHUNKED_FILES, "pushed") == 1)
    running.cancel()
    await asyncio.wait([running])
    assert house.shown(families.chunks.CHUNKED_FILES, "pushed") == 0
    assert house.shown(families.chunks.DEDUPLICATION_TIME, "pushed") == 0
    assert house.counted(families.chunks.DEDUPLICATED_FILES, "pushed", "chunks") == 1


async def test_files_that_stay_as_they_are_and_paths_that_wait_are_counted(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.published(LIBRARY, another(1), another(2))
    house.clock.ahead = DAY
    node = house.server.node
    open_blob = node.open_blob

    async def open_or_fail(key: str) -> Download | None:
        if key == blob(another(1)):
            raise StorageError("cannot read a file: Input/output error")
        return await open_blob(key)

    monkeypatch.setattr(node, "open_blob", open_or_fail)
    job = await job_of(house)
    with monkeypatch.context() as patch:
        patch.setattr("harmonia_py.chunks.deduplication._PASS_SECONDS", -1.0)
        await job.look()
    last = await house.server.catalog.chunk_work.last()
    assert last is not None
    assert (house.shown(families.chunks.DEDUPLICATION_WAITING, "pushed"), last.waiting) == (3, 3)
    await job.look()
    assert house.shown(families.chunks.DEDUPLICATION_WAITING, "pushed") == 0
    assert house.counted(families.chunks.DEDUPLICATED_FILES, "pushed", "left") == 1
    assert house.counted(families.chunks.DEDUPLICATED_FILES, "pushed", "chunks") == 2


async def job_of(house: House) -> Deduplication:
    """The job, for a cache that wants chunks of what was not asked for since this moment."""
    row = await team(house)

    async def scopes() -> list[Scope]:
        settings = replace(row.settings, deduplicate=CHUNKS, deduplicate_after=0)
        return [Scope(cache=row.id, settings=settings, deleted=False)]

    return deduplication(house.server.node, scopes, house.metrics, clock=house.clock)


@pytest.mark.skipif(backing.IN_BUCKET, reason="a read of the disk fails")
async def test_a_chunk_that_cannot_be_read_is_lost_and_the_rest_of_its_pack_is_written_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad block ended each pass before it made any chunks, and no pack was collected any more."""
    small, large = another(1, 100_000), another(2, 900_000)
    await house.published(LIBRARY, small, large)
    await make_chunks(house)
    await delete(house, large)
    await house.look(7 * DAY)

    def read(fd: int, offset: int, size: int, buffer: bytearray) -> Iterator[memoryview]:
        if offset <= 10 < offset + size:
            raise StorageError("cannot read a file: Input/output error")
        return read_file(fd, offset, size, buffer)

    with monkeypatch.context() as patch:
        patch.setattr(pieces, "read_file", read)
        done = await house.server.node.chunking.pack_collector().run()
    assert done.written_bytes > 0
    assert [await status(house, one) for one in (small.path, REFERENCE)].count(404) > 0
    for one in (LIBRARY, small):
        assert (await push(house.server, one, run="r2")).status == 200
    await check(house, LIBRARY, small)


async def test_a_pack_that_cannot_be_read_for_now_is_set_aside_and_the_others_are_written_anew(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pass ended at the same pack: no other was written anew any more, and nothing became chunks."""
    await house.published(LIBRARY)
    for seed in (1, 3):
        await house.published(another(seed, 100_000), another(seed + 1, 900_000), another(seed + 4, 50_000))
        await make_chunks(house)
    bad, good = (pack.key for pack in await house.server.catalog.packs.to_look_at(16, now=house.server.node.now()))
    await delete(house, another(2, 900_000), another(4, 900_000))
    await house.look(7 * DAY)
    blobs = house.server.node.blobs
    open_blob = blobs.open

    async def open_or_fail(key: BlobKey) -> Any:
        if key == bad:
            raise StorageError("cannot open a file: Stale file handle")
        return await open_blob(key)

    job, later = await job_of(house), house.server.node.now()
    collector = house.server.node.chunking.pack_collector(now=lambda: later)
    with monkeypatch.context() as patch:
        patch.setattr(blobs, "open", open_or_fail)
        await job.look()
        assert bad in packs(house)
        assert house.counted(families.chunks.DEDUPLICATION_ERRORS, "pushed") == 1
        # It is not the first of the next pass again, nor when it loses a use.
        assert await collector.run() == PacksCollected()
        await delete(house, another(5, 50_000))
        await house.look(7 * DAY)
        done = await collector.run()
        assert done.uses > 0
        assert done.set_aside == 0
    await house.look(8 * DAY)
    assert packs(house) & {bad, good} == {bad}
    later = Timestamp(later + SET_ASIDE_SECONDS + 1)
    assert (await collector.run()).removed >= 1
    await house.look(9 * DAY)
    assert packs(house) & {bad, good} == set()
    await check(house, LIBRARY, another(1, 100_000), another(3, 100_000))


async def test_what_was_copied_of_a_pack_before_it_could_not_be_read_is_counted_once(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pack that was set aside was counted with the chunks that had moved into the new one."""
    small, large = another(1, 100_000), another(2, 900_000)
    await house.published(LIBRARY, small, large)
    await make_chunks(house)
    await delete(house, large)
    await house.look(7 * DAY)

    def some(*arguments: Any) -> Iterator[Any]:
        yield from islice(frames_of(*arguments), 2)
        raise StorageError("cannot read a file: Stale file handle")

    with monkeypatch.context() as patch:
        patch.setattr("harmonia_py.chunks.pack_collector.frames_of", some)
        done = await house.server.node.chunking.pack_collector().run()
    assert done.set_aside == 1
    assert done.written_bytes > 0
    catalog = house.server.catalog
    ((used,),) = await catalog.database.read(
        lambda: ask("select sum(frame_size) from chunks where id in (select chunk_id from chunk_uses)")
    )
    assert (await catalog.chunk_work.figures()).used_size == used
    await check(house, LIBRARY, small)


async def test_a_pack_that_is_missing_is_noted_once(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its chunks were marked lost as many times as there are chunks, of which a pack has a thousand."""
    small, large = another(1, 300_000), another(2, 900_000)
    await house.published(LIBRARY, small, large)
    await make_chunks(house)
    await delete(house, large)
    await house.look(7 * DAY)
    (pack,) = packs(house)
    (house.server.directory / pack).unlink()
    chunks, lost = house.server.catalog.chunks, 0

    async def lose(*arguments: Any, **named: Any) -> Any:
        nonlocal lost
        lost += 1
        return await type(chunks).lose(chunks, *arguments, **named)

    monkeypatch.setattr(chunks, "lose", lose)
    await house.server.node.chunking.pack_collector().run()
    assert lost == 1
    assert [await status(house, one) for one in (small.path, REFERENCE)] == [404, 404]


class Killed(Exception):
    """Stands for the end of the process: what was done is done, and nothing else is."""


@dataclass
class Axe:
    """Ends the process before or after the call of this number."""

    number: int
    calls: int = 0

    def around(self, call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def called(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == self.number:
                raise Killed
            answer = await call(*arguments, **named)
            self.calls += 1
            if self.calls == self.number:
                raise Killed
            return answer

        return called


STEPS_OF_PACKS = ("add", "move", "drop_uses", "keep")


@pytest.mark.parametrize("number", range(1, 13))
async def test_a_process_that_ends_at_any_step_of_making_chunks_loses_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    await house.published(LIBRARY, HELLO, another(3))
    axe = Axe(number)
    with monkeypatch.context() as patch:
        _cut_short(patch, house, axe)
        try:
            await make_chunks(house)
        except Killed:
            assert axe.calls == number
    await check(house, LIBRARY, HELLO, another(3))
    await make_chunks(house)
    await collect(house)
    await check(house, LIBRARY, HELLO, another(3))
    await delete(house, HELLO, another(3))
    await delete(house, LIBRARY)
    await collect(house)
    await _strays(house)
    assert house.files() == {"team/nix-cache-info"}


@pytest.mark.parametrize("number", range(1, 13))
async def test_a_process_that_ends_at_any_step_of_collecting_packs_loses_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    small, large = another(1, 100_000), another(2, 900_000)
    await house.published(LIBRARY, small, large)
    await make_chunks(house)
    await delete(house, large)
    await house.look(7 * DAY)
    axe = Axe(number)
    with monkeypatch.context() as patch:
        _cut_short(patch, house, axe)
        try:
            await house.server.node.chunking.pack_collector().run()
        except Killed:
            assert axe.calls == number
    await check(house, LIBRARY, small)
    await collect(house)
    await _strays(house)
    assert len(packs(house)) == 1
    await check(house, LIBRARY, small)


def _cut_short(patch: pytest.MonkeyPatch, house: House, axe: Axe) -> None:
    """Let `axe` count the writes that making chunks and collecting them consist of."""
    catalog, blobs = house.server.catalog, house.server.node.blobs
    for name in STEPS_OF_PACKS:
        patch.setattr(catalog.packs, name, axe.around(getattr(catalog.packs, name)))
    patch.setattr(catalog.chunks, "replace", axe.around(catalog.chunks.replace))
    patch.setattr(blobs, "put", axe.around(blobs.put))


async def _strays(house: House) -> None:
    """What the next start does with bytes that no row names."""
    node = house.server.node
    await discard_strays(node.blobs, house.server.catalog.repairs, now=node.now())
    await house.look(9 * DAY)
