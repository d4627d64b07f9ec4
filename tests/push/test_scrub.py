"""Kept files read again in the background: which come next, how fast, and what becomes of those that have rotten."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from house import Clock, House, blob, download, status
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, push
from pushing import pushed_to

from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.scrub import Scrub, ScrubCounters
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest, Digests
from harmonia_py.metrics.board import Metrics
from harmonia_py.nix.hashes import Hash
from harmonia_py.storage.digests import DiskDigests
from harmonia_py.storage.disk import DiskBlobs

_PERIOD = 30 * 86_400


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = Clock()
    async with pushed_to(tmp_path, STORE, clock=clock) as server:
        house = House(server, clock)
        await house.published(GLIBC, HELLO)
        yield house


class Scrubbing:
    """A scrub of the files of a house, and what it has read and said."""

    def __init__(self, house: House, digests: Digests, period: float | None = _PERIOD) -> None:
        self.counters = ScrubCounters.on(Metrics.alone(), "pushed")
        self.faults: list[tuple[str, str]] = []
        self._house = house
        self.scrub = Scrub(
            house.server.catalog.file_checks,
            digests,
            self._note,
            counters=self.counters,
            period=period,
            clock=house.clock,
        )

    async def _note(self, file: NarFile, fault: str) -> None:
        self.faults.append((file.blob_key, fault))
        await self._house.server.node.quarantine.note(file, fault)

    async def step(self) -> None:
        """The next file, on the next day."""
        self._house.clock.ahead += 86_400
        await self.scrub.step()

    @property
    def read(self) -> int:
        return int(self.counters.files.value)


@pytest.fixture
async def scrubbing(house: House) -> AsyncIterator[Scrubbing]:
    async with house.server.node.chunking.digests() as digests:
        yield Scrubbing(house, digests)


def rot(path: Path) -> None:
    """As a disk does it: without a sign."""
    before = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_what_has_rotten_is_found_hidden_and_healed_by_the_next_push(house: House, scrubbing: Scrubbing) -> None:
    rot(house.server.directory / blob(GLIBC))
    for _ in range(2):
        await scrubbing.step()
    assert [key for key, _ in scrubbing.faults] == [blob(GLIBC)]
    assert "its hash is sha256:" in scrubbing.faults[0][1]
    assert [await status(house, path) for path in (PATH, REFERENCE)] == [404, 404]
    await scrubbing.scrub.look()
    assert (scrubbing.counters.quarantined.value, scrubbing.counters.hidden.value) == (1, 2)
    assert (await push(house.server, GLIBC, run="r2")).status == 200
    assert [await status(house, path) for path in (PATH, REFERENCE)] == [200, 200]
    assert (await download(house, GLIBC)).body == GLIBC.data
    await scrubbing.scrub.look()
    assert (scrubbing.counters.quarantined.value, scrubbing.counters.hidden.value) == (0, 0)


@pytest.mark.parametrize("size", [0, 5])
async def test_what_is_missing_or_cut_is_found(house: House, scrubbing: Scrubbing, size: int) -> None:
    path = house.server.directory / blob(HELLO)
    if size:
        os.truncate(path, size)
    else:
        path.unlink()
    for _ in range(2):
        await scrubbing.step()
    assert [key for key, _ in scrubbing.faults] == [blob(HELLO)]
    assert [await status(house, path) for path in (PATH, REFERENCE)] == [404, 200]


async def test_each_file_is_read_once_in_a_period(house: House, scrubbing: Scrubbing) -> None:
    seconds = 0.0
    while seconds < _PERIOD:
        before = scrubbing.read
        wait = await scrubbing.scrub.step()
        assert scrubbing.read == before + 1, "small files are not read all at once"
        seconds += wait
        house.clock.ahead += wait
    assert 2 <= scrubbing.read <= 4
    health = await house.server.catalog.file_checks.health()
    assert health.oldest is not None
    assert house.clock() - health.oldest <= _PERIOD
    assert not scrubbing.faults


async def test_a_restart_goes_on_with_the_file_that_waits_the_longest(house: House, scrubbing: Scrubbing) -> None:
    house.clock.ahead = 3600
    await scrubbing.scrub.step()
    (unread, read) = await house.server.catalog.file_checks.due(2)
    assert read.checked - unread.checked > 3500
    async with house.server.node.chunking.digests() as digests:
        await Scrubbing(house, digests).scrub.step()
    due = await house.server.catalog.file_checks.due(2)
    assert all(one.checked - unread.checked > 3500 for one in due), "the other one was read"


async def test_what_has_waited_for_too_long_is_read_faster(house: House, scrubbing: Scrubbing) -> None:
    async def seconds_a_byte() -> float:
        """The files are of different lengths, and which comes next depends on the second in which it was pushed."""
        before = scrubbing.counters.bytes.value
        rest = await scrubbing.scrub.step()
        return rest / (scrubbing.counters.bytes.value - before)

    usual = await seconds_a_byte()
    house.clock.ahead = 2 * _PERIOD
    assert await seconds_a_byte() < usual / 2


async def test_without_a_period_nothing_is_read(house: House) -> None:
    async with house.server.node.chunking.digests() as digests:
        scrubbing = Scrubbing(house, digests, None)
        await scrubbing.scrub.step()
    assert scrubbing.read == 0


async def test_reading_keeps_to_its_rate_and_ends_at_once_when_it_is_cancelled(tmp_path: Path) -> None:
    key = BlobKey("nar/a.nar")
    async with DiskBlobs(tmp_path) as blobs, DiskDigests(tmp_path) as digests:
        await blobs.put(key, bytes(4 * 1024 * 1024), {})
        began = time.monotonic()
        digest = await digests.digest(key, rate=16 * 1024 * 1024)
        assert time.monotonic() - began >= 0.2
        assert digest == Digest(4 * 1024 * 1024, Hash.of(bytes(4 * 1024 * 1024)), None)
        reading = asyncio.create_task(digests.digest(key, rate=1.0))
        await asyncio.sleep(0)
        reading.cancel()
        async with asyncio.timeout(30):
            with suppress(asyncio.CancelledError):
                await reading
