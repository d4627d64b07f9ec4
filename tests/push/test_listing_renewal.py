"""Long listings that are lost: they are made again of their NARs, at the first read or by the scrub."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import backing
import pytest
from chunking import make_chunks
from house import Clock, House, team
from pushed_paths import PATH, REFERENCE, STORE, push, pushed
from pushing import pushed_to
from trees import File, Folder
from waiting import eventually

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.document_scrub import DocumentScrub
from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.catalog.objects import Document
from harmonia_py.catalog.scrub import ScrubCounters
from harmonia_py.database.nars import SqlNars
from harmonia_py.database.uploads import SqlUploads
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.store_path import HashPart
from harmonia_py.push.findings import MAX_INLINE_LISTING
from harmonia_py.push.listings import listing_key_of

LONG = pushed(PATH, Folder({f"é {number:0200}".encode(): File() for number in range(300)}), compression="zstd")
LISTING = listing_key_of(LONG.claim.path_info.nar_hash)
OTHER = pushed(REFERENCE, Folder({f"e {number:0200}".encode(): File() for number in range(300)}), compression="zstd")
OTHER_LISTING = listing_key_of(OTHER.claim.path_info.nar_hash)
PLACE = f"/{PATH.hash_part}.ls"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = Clock()
    async with pushed_to(tmp_path, STORE, clock=clock) as server:
        house = House(server, clock)
        await house.published(LONG)
        yield house


@pytest.fixture
async def listing(house: House) -> bytes:
    """The listing as it was before it was lost."""
    answer = await house.server.get(PLACE)
    assert len(answer.body) > MAX_INLINE_LISTING
    return answer.body


async def whole_round(house: House) -> int:
    """Read all documents as the scrub does; returns how many were wrong.

    Until its push has ended there are two rows of the listing: of the path, and of the NAR.
    """
    checks = house.server.catalog.documents
    counters = ScrubCounters.on(Metrics.alone(), "pushed")
    async with house.server.node.chunking.digests() as digests:
        scrub = DocumentScrub(
            checks,
            digests,
            counters=counters,
            period=86_400,
            make_listing=house.server.node.listing_renewal.make,
            clock=house.clock,
        )
        for _ in range(await checks.count()):
            await scrub.step()
    return int(counters.faults.value)


@pytest.mark.parametrize("lost", ["its file", "its row", "its row and its file"])
async def test_a_listing_that_is_lost_is_there_again_soon_after_it_was_asked_for(
    house: House, listing: bytes, lost: str
) -> None:
    """Only a push of the path brought it back, and a client that has the path pushes nothing."""
    path = house.server.directory / LISTING
    if "row" in lost:
        checks = house.server.catalog.documents
        for row in await checks.due(9):
            assert await checks.drop(row, "it is wrong", now=house.server.node.now())
    if "file" in lost:
        path.unlink()
    assert (await house.server.get(PLACE)).status == 404
    async with asyncio.timeout(30):
        while (answer := await house.server.get(PLACE)).status == 404:
            pass
    assert (answer.body, path.read_bytes()) == (listing, listing)
    await house.look(0)
    assert (house.server.directory / f"team{PLACE}").read_bytes() == listing
    # It stays with its path, and goes with it.
    await house.look(3 * 86_400)
    assert (await house.server.get(PLACE)).body == listing


async def test_the_scrub_makes_a_listing_again_that_is_missing_or_wrong(house: House, listing: bytes) -> None:
    path = house.server.directory / LISTING
    path.unlink()
    assert await whole_round(house) > 0
    assert path.read_bytes() == listing
    path.write_bytes(listing.replace(b"regular", b"rEgular", 1))
    assert await whole_round(house) > 0
    assert path.read_bytes() == listing
    assert await whole_round(house) == 0
    assert (await house.server.get(PLACE)).body == listing


async def test_no_listing_is_made_of_a_nar_that_is_lost_or_wrong(house: House, listing: bytes) -> None:
    nar, path = house.server.directory / LONG.place[1:], house.server.directory / LISTING
    path.unlink()
    data = bytearray(nar.read_bytes())
    data[len(data) // 2] ^= 1
    nar.write_bytes(data)
    assert await whole_round(house) > 0
    nar.unlink()
    assert await whole_round(house) > 0
    assert not path.exists()


@pytest.mark.skipif(backing.IN_BUCKET, reason="a read of the disk fails")
@pytest.mark.parametrize("fault", ["the disk is broken there", "it was cut"])
async def test_the_scrub_goes_on_behind_a_listing_whose_nar_cannot_be_read(
    house: House, listing: bytes, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The disk had a bad place in the NAR: no other log or listing was read again, and that NAR without an end."""
    await house.published(OTHER)
    (house.server.directory / LISTING).unlink()
    (house.server.directory / OTHER_LISTING).unlink()
    nar, preadv = (house.server.directory / LONG.place[1:]).stat().st_ino, os.preadv
    faults = 0

    def read(fd: int, buffers: list[memoryview], offset: int) -> int:
        nonlocal faults
        if os.fstat(fd).st_ino != nar:
            return preadv(fd, buffers, offset)
        faults += 1
        if fault == "it was cut":
            return 0
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", read)
    assert await whole_round(house) > 0
    assert not (house.server.directory / LISTING).exists()
    assert (house.server.directory / OTHER_LISTING).exists()
    assert 0 < faults <= 2, "once for each row of the listing"


async def test_a_listing_is_made_again_of_a_nar_in_chunks(house: House, listing: bytes) -> None:
    assert (await make_chunks(house)).files == 1
    await house.look(7 * 86_400)
    assert not (house.server.directory / LONG.place[1:]).exists()
    path = house.server.directory / LISTING
    path.unlink()
    assert await whole_round(house) > 0
    assert path.read_bytes() == listing


async def test_a_listing_that_another_worker_has_made_by_now_is_not_made_again(
    house: House, listing: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Readers of one listing were spread over all workers, each of which read the NAR."""
    await house.published(OTHER)
    caplog.set_level("INFO")
    renewal, cache = house.server.node.listing_renewal, (await team(house)).id
    other = house.server.directory / OTHER_LISTING
    other.unlink()
    renewal.want(cache, PATH.hash_part)
    renewal.want(cache, REFERENCE.hash_part)
    await eventually(lambda: "was made again" in caplog.text)
    assert other.exists()
    assert caplog.text.count("was made again") == 1


async def test_a_listing_is_written_once_more_when_it_is_deleted_before_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client got 500."""
    attach = SqlUploads.attach
    deleted: list[str] = []

    async with pushed_to(tmp_path, STORE) as server:
        catalog = server.catalog

        async def attach_late(
            self: SqlUploads,
            cache: CacheId,
            session: str | None,
            document: Document,
            keepers: Collection[HashPart],
            *,
            now: Timestamp,
        ) -> None:
            if not deleted:
                await catalog.repairs.discard([LISTING], garbage_from=now)
                deleted.extend(await catalog.garbage.claim(1, now=now))
                with pytest.raises(BeingDeleted):
                    await attach(self, cache, session, document, keepers, now=now)
                await server.node.blobs.delete(LISTING)
                await catalog.garbage.forget(deleted)
                raise BeingDeleted
            await attach(self, cache, session, document, keepers, now=now)

        monkeypatch.setattr(SqlUploads, "attach", attach_late)
        assert (await push(server, LONG)).status == 200
        assert deleted == [LISTING]
        assert (await server.get(PLACE)).body == (server.directory / LISTING).read_bytes()


async def test_a_listing_that_was_made_again_goes_with_its_path(house: House, listing: bytes) -> None:
    path = house.server.directory / LISTING
    path.unlink()
    assert await whole_round(house) > 0
    target = f"/team/api/paths/{PATH.hash_part}?despite-pushes=1"
    assert (await house.server.request("DELETE", target, token="cleaner")).status == 200
    for days in (9, 10):
        await house.look(days * 86_400)
    assert not path.exists()
    assert await house.server.catalog.documents.count() == 0


async def test_a_listing_is_written_once_an_earlier_one_has_been_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its bytes went with those of the earlier one."""
    reserve, asked = SqlNars.reserve, asyncio.Event()

    async def note_and_reserve(self: SqlNars, blob_key: str) -> None:
        asked.set()
        await reserve(self, blob_key)

    monkeypatch.setattr(SqlNars, "reserve", note_and_reserve)
    async with pushed_to(tmp_path, STORE) as server:
        now, path = server.node.now(), server.directory / LISTING
        await server.catalog.repairs.discard([LISTING], garbage_from=now)
        assert await server.catalog.garbage.claim(1, now=now) == [LISTING]
        pushing = asyncio.create_task(push(server, LONG))
        await asked.wait()
        assert not path.exists()
        await server.catalog.garbage.forget([LISTING])
        assert (await pushing).status == 200
        assert (await server.get(PLACE)).body == path.read_bytes()
