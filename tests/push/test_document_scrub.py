"""Logs and listings in files, read again in the background: in which order, and what becomes of those that are lost."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from house import Clock, House, team
from pushed_paths import PATH, STORE, pushed
from pushing import pushed_to
from trees import File, Folder

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.document_scrub import DocumentScrub
from harmonia_py.catalog.objects import Document, DocumentKind
from harmonia_py.catalog.scrub import ScrubCounters
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest, Digests
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.findings import MAX_INLINE_LISTING

_PERIOD = 30 * 86_400
_NAMES = ("bash", "curl", "zlib")


def derivation(name: str) -> StorePath:
    return StorePath(f"{'d' * 32}-{name}.drv")


def log(name: str) -> str:
    return f"log/{derivation(name)}"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Three logs whose derivations are pushed with them."""
    clock = Clock()
    async with pushed_to(tmp_path, STORE, clock=clock) as server:
        house = House(server, clock)
        for name in _NAMES:
            assert (await server.put(f"/{log(name)}", f"{name} was built\n".encode())).status == 200
        yield house


class Reading:
    """A scrub of the documents of a house."""

    def __init__(self, house: House, digests: Digests) -> None:
        self.counters = ScrubCounters.on(Metrics.alone(), "pushed")
        self.discarded: list[str] = []
        checks = house.server.catalog.documents
        self.scrub = DocumentScrub(
            checks, digests, counters=self.counters, period=_PERIOD, discard=self._discard, clock=house.clock
        )

    async def _discard(self, key: BlobKey) -> None:
        self.discarded.append(key)

    async def whole_round(self) -> None:
        for _ in _NAMES:
            await self.scrub.step()


@pytest.fixture
async def reading(house: House) -> AsyncIterator[Reading]:
    async with house.server.node.chunking.digests() as digests:
        yield Reading(house, digests)


async def kept(house: House) -> set[str]:
    """The logs that the catalog has."""
    cache = (await team(house)).id
    objects = house.server.catalog.objects
    return {
        name
        for name in _NAMES
        if await objects.document(cache, DocumentKind.LOG, derivation(name), pending=True) is not None
    }


def rot(path: Path) -> None:
    """As a disk does it: without a sign."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_a_log_that_has_rotten_is_forgotten_and_taken_when_it_is_pushed_again(
    house: House, reading: Reading
) -> None:
    """Only NARs were read again: a log whose bytes had changed on the disk was served for ever."""
    key = f"team/{log('curl')}"
    rot(house.server.directory / key)
    await reading.whole_round()
    assert (reading.discarded, reading.counters.faults.value) == ([key], 1)
    assert await kept(house) == {"bash", "zlib"}
    entries = await house.server.catalog.audit.page(None, 100)
    [entry] = [entry for entry in entries if entry.action == "quarantine"]
    assert (entry.cache, entry.subject, entry.principal) == ("team", key, "server")
    assert "its hash is sha256:" in str(entry.detail)
    assert (await house.server.put(f"/{log('curl')}", b"curl was built again\n")).status == 200
    await reading.whole_round()
    assert (await kept(house), reading.counters.faults.value) == (set(_NAMES), 1)


async def test_logs_that_are_only_out_of_reach_are_there_again_with_their_volume(
    house: House, reading: Reading, caplog: pytest.LogCaptureFixture
) -> None:
    """While the volume was not mounted, each log whose turn came was forgotten, and its file became garbage."""
    logs = house.server.directory / "team/log"
    elsewhere = house.server.directory.parent / "elsewhere"
    logs.rename(elsewhere)
    await reading.whole_round()
    assert (reading.counters.faults.value, reading.discarded) == (3, [])
    assert await kept(house) == set(_NAMES)
    said = [one.getMessage() for one in caplog.records if "missing" in one.getMessage()]
    assert [one for one in said if "fsck --repair" in one and log("bash") in one] == said
    assert len(said) == 1, "a line for each document fills the log"
    elsewhere.rename(logs)
    await reading.whole_round()
    assert reading.counters.faults.value == 3


async def test_a_log_that_was_cut_is_counted_and_left(house: House, reading: Reading) -> None:
    os.truncate(house.server.directory / f"team/{log('zlib')}", 5)
    await reading.whole_round()
    assert (reading.counters.faults.value, await kept(house)) == (1, set(_NAMES))


async def test_a_log_that_was_collected_while_its_turn_came_is_no_fault(house: House, reading: Reading) -> None:
    path = house.server.directory / f"team/{log('bash')}"
    checks = house.server.catalog.documents
    [one, *_] = await checks.due(1)

    async with house.server.node.chunking.digests() as digests:

        class Collecting:
            async def digest(self, key: BlobKey, *, rate: float | None = None) -> Digest | None:
                if key == one.document.blob_key and path.exists():
                    await checks.drop(one, "it goes", now=house.server.node.now())
                    path.unlink()
                return await digests.digest(key, rate=rate)

        collected = Reading(house, Collecting())
        await collected.whole_round()
    assert (collected.counters.faults.value, await kept(house)) == (0, {"curl", "zlib"})


async def test_a_document_that_was_kept_without_a_hash_is_held_against_its_size(house: House, reading: Reading) -> None:
    """Logs of earlier releases were."""
    server, cache = house.server, (await team(house)).id
    key = BlobKey(f"team/{log('curl')}")
    await server.node.blobs.put(key, b"other bytes", {}, durable=True)
    await reading.whole_round()
    assert await kept(house) == {"bash", "zlib"}
    for name, size in (("old", 11), ("older", 12)):
        await server.node.blobs.put(BlobKey(f"team/{log(name)}"), b"other bytes", {}, durable=True)
        document = Document(kind=DocumentKind.LOG, name=derivation(name), size=size, blob_key=f"team/{log(name)}")
        await server.catalog.uploads.attach(cache, None, document, [derivation(name).hash_part], now=server.node.now())
    reading.discarded.clear()
    for _ in range(6):
        await reading.scrub.step()
    assert reading.discarded == [f"team/{log('older')}"]


async def test_each_document_is_read_once_in_a_period_and_a_restart_goes_on(house: House, reading: Reading) -> None:
    rests = [await reading.scrub.step() for _ in range(2)]
    assert reading.counters.files.value == 2, "not all at once"
    assert all(_PERIOD / 4 < rest < _PERIOD / 3 for rest in rests)
    rot(house.server.directory / f"team/{log('zlib')}")
    async with house.server.node.chunking.digests() as digests:
        after_restart = Reading(house, digests)
        await after_restart.scrub.step()
    assert (after_restart.counters.files.value, after_restart.counters.faults.value) == (1, 1)
    assert not reading.discarded


async def test_documents_whose_turn_comes_within_a_minute_are_read_together(house: House) -> None:
    async with house.server.node.chunking.digests() as digests:
        counters = ScrubCounters.on(Metrics.alone(), "pushed")
        checks = house.server.catalog.documents
        scrub = DocumentScrub(checks, digests, counters=counters, period=60.0, clock=house.clock)
        rest = await scrub.step()
    assert counters.files.value == 3
    assert rest <= 60.0 / 1.1


async def test_a_document_that_came_again_meanwhile_is_not_forgotten(house: House) -> None:
    checks = house.server.catalog.documents
    [one, *_] = await checks.due(1)
    assert await checks.drop(one, "it is wrong", now=house.server.node.now())
    assert not await checks.drop(one, "it is wrong", now=house.server.node.now())
    assert (await house.server.put(f"/{log('bash')}", b"bash was built, and it is another log\n")).status == 200
    assert not await checks.drop(one, "it is wrong", now=house.server.node.now())
    assert await kept(house) == set(_NAMES)


async def test_a_document_of_the_same_size_that_came_again_meanwhile_is_not_forgotten(house: House) -> None:
    """A log that was pushed again between the second look and the removal was deleted, when it was as long."""
    checks = house.server.catalog.documents
    [one, *_] = await checks.due(1)
    assert await checks.drop(one, "it is wrong", now=house.server.node.now())
    later = Timestamp(house.server.node.now() + 2)
    await house.server.catalog.uploads.attach(one.cache, None, one.document, [derivation("bash").hash_part], now=later)
    assert not await checks.drop(one, "it is wrong", now=house.server.node.now())
    assert await kept(house) == set(_NAMES)


async def test_without_documents_it_looks_again_later(house: House, reading: Reading) -> None:
    checks = house.server.catalog.documents
    for one in await checks.due(10):
        await checks.drop(one, "it is wrong", now=house.server.node.now())
    assert 60 <= await reading.scrub.step() <= 3600
    assert reading.counters.files.value == 0


async def test_a_long_listing_is_right_as_it_was_kept(house: House, reading: Reading) -> None:
    files = {f"é {number:0200}".encode(): File() for number in range(300)}
    await house.published(pushed(PATH, Folder(files)))
    listing = (await house.server.get(f"/{PATH.hash_part}.ls")).body
    assert len(listing) > MAX_INLINE_LISTING
    checks = house.server.catalog.documents
    assert str(PATH.hash_part) in {one.document.name for one in await checks.due(10)}
    count = await checks.count()
    for _ in range(count):
        await reading.scrub.step()
    assert (reading.counters.files.value, reading.counters.faults.value) == (count, 0)
