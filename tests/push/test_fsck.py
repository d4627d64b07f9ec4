"""The catalog and the files of pushed caches held against each other, beside a server that runs."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from chunking import make_chunks
from house import Clock, House, blob, download, listing, static, status, team
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, push
from pushing import pushed_to

from harmonia_py.catalog.fsck import Fsck
from harmonia_py.catalog.fsck_findings import Fault, Finding, FsckPorts
from harmonia_py.catalog.nars import NarFile
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.database.transaction import ask
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

# What came within the last hour is left alone.
_LATER = 7200.0


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    clock = Clock()
    async with pushed_to(tmp_path, STORE, clock=clock) as server:
        house = House(server, clock)
        await house.published(GLIBC, HELLO)
        house.clock.ahead = _LATER
        yield house


async def fsck(house: House, *, hashes: bool = False, repair: bool = False) -> list[Finding]:
    catalog = house.server.catalog
    ports = FsckPorts(
        caches=catalog.caches,
        objects=catalog.objects,
        index=catalog.objects,
        checks=catalog.file_checks,
        documents=catalog.documents,
        repairs=catalog.repairs,
    )

    async def isolate(file: NarFile, fault: str) -> str:
        await house.server.node.quarantine.note(file, fault)
        return "hidden"

    async with house.server.node.chunking.digests() as digests:
        looking = Fsck(
            ports,
            house.server.node.blobs,
            digests,
            isolate if repair else None,
            hashes=hashes,
            names_later=False,
            clock=house.clock,
        )
        async with aclosing(looking.run()) as findings:
            return [finding async for finding in findings]


def found(findings: list[Finding]) -> list[tuple[Fault, str]]:
    return [(finding.fault, finding.key) for finding in findings]


async def test_where_all_is_right_nothing_is_found(house: House) -> None:
    assert await fsck(house, hashes=True) == []


async def test_a_file_that_is_missing_is_hidden_when_it_is_repaired_and_only_then(house: House) -> None:
    (house.server.directory / blob(GLIBC)).unlink()
    for repair in (False, True):
        assert await status(house, PATH) == 200
        assert found(await fsck(house, repair=repair)) == [(Fault.MISSING, blob(GLIBC))]
    assert await status(house, PATH) == 404
    assert found(await fsck(house)) == [(Fault.QUARANTINED, blob(GLIBC))]


async def test_bytes_that_have_rotten_are_found_with_hashes_alone(house: House) -> None:
    path = house.server.directory / blob(GLIBC)
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await fsck(house) == []
    assert found(await fsck(house, hashes=True)) == [(Fault.WRONG, blob(GLIBC))]


async def test_a_file_that_was_put_back_is_seen_again(house: House) -> None:
    """From a backup: nothing has to be pushed."""
    path = house.server.directory / blob(GLIBC)
    path.rename(path.with_name("away"))
    await download(house, GLIBC)
    assert await status(house, PATH) == 404
    path.with_name("away").rename(path)
    assert found(await fsck(house))[0] == (Fault.RIGHT_AGAIN, blob(GLIBC))
    assert await status(house, PATH) == 404, "nothing was to be changed"
    assert (await fsck(house, repair=True))[0].done == "its paths are seen again"
    assert [await status(house, path) for path in (PATH, REFERENCE)] == [200, 200]


async def test_a_file_that_no_row_names_is_deleted_by_the_collector(house: House) -> None:
    stray = house.server.directory / "nar" / "stray.nar"
    stray.write_bytes(b"stray")
    os.utime(stray, (time.time(), 1))
    assert found(await fsck(house, repair=True)) == [(Fault.UNNAMED, "nar/stray.nar")]
    await house.look(_LATER)
    assert not stray.exists()
    assert {blob(GLIBC), blob(HELLO)} <= house.files()


async def test_every_file_that_no_row_names_is_found_however_many_there_are(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harmonia_py.catalog.fsck._PAGE", 2)
    names = [f"nar/stray-{number}.nar" for number in range(5)]
    for name in names:
        (house.server.directory / name).write_bytes(b"stray")
        os.utime(house.server.directory / name, (time.time(), 1))
    assert sorted(found(await fsck(house))) == [(Fault.UNNAMED, name) for name in names]


async def test_totals_that_the_rows_do_not_make_are_counted_anew(house: House) -> None:
    """Limits are held to them: a cache would be full, or never be."""
    row, size = await team(house), len(GLIBC.data) + len(HELLO.data)
    await house.server.catalog.database.write(lambda: ask("update totals set objects = 3, size = 300"))
    words = f"3 with 300 bytes, where counting says 2 with {size} bytes"
    for repair in (False, True):
        told = [(one.fault, one.key, one.detail) for one in await fsck(house, repair=repair)]
        for of in ("all caches, stored", f"cache {row.id}, published"):
            assert told.count((Fault.TOTAL, of, words)) == 1
    assert await fsck(house) == []


async def test_a_file_that_was_kept_with_another_hash_is_found_without_reading_it(house: House) -> None:
    other = Hash.of(b"other")
    await house.server.node.blobs.put(BlobKey(blob(GLIBC)), GLIBC.data, {"file_hash": str(other)})
    (one,) = [one for one in await fsck(house) if one.key == blob(GLIBC)]
    assert f"it was kept with the hash {other}, not {Hash.of(GLIBC.data)}" in one.detail


async def test_a_file_that_has_just_come_or_is_expected_is_left_alone(house: House) -> None:
    """A file is whole before a row names it: between the two a look must not take it for one that no row names."""
    stray = house.server.directory / "nar" / "stray.nar"
    stray.write_bytes(b"stray")
    house.clock.ahead = 0
    assert await fsck(house, repair=True) == []
    await house.look(0)
    assert stray.exists()


async def test_narinfos_for_other_programs_are_put_right(house: House) -> None:
    (house.server.directory / static(PATH)).unlink()
    nowhere = house.server.directory / "team" / f"{'0' * 32}.narinfo"
    nowhere.write_bytes(b"StorePath: x\n")
    assert set(found(await fsck(house, repair=True))) == {
        (Fault.NO_STATIC, static(PATH)),
        (Fault.STALE_STATIC, f"team/{'0' * 32}.narinfo"),
    }
    await house.look(_LATER)
    assert static(PATH) in house.files()
    assert not nowhere.exists()
    assert await fsck(house) == []


async def test_a_listing_for_other_programs_belongs_to_its_narinfo(house: House) -> None:
    """A cache that an earlier release wrote has none; and one without a path was taken for a file of no row."""
    (house.server.directory / listing(PATH)).unlink()
    nowhere = house.server.directory / "team" / f"{'0' * 32}.ls"
    nowhere.write_bytes(b"{}")
    wrong = [(Fault.STALE_STATIC, f"team/{'0' * 32}.ls"), (Fault.NO_STATIC, listing(PATH))]
    assert found(await fsck(house)) == wrong
    assert found(await fsck(house, repair=True)) == wrong
    await house.look(_LATER)
    assert {static(PATH), listing(PATH)} <= house.files()
    assert not nowhere.exists()
    assert await fsck(house) == []


async def test_files_for_other_programs_that_are_about_to_go_are_no_fault(house: House) -> None:
    cache, catalog = (await team(house)).id, house.server.catalog
    now = house.server.node.now()
    done = await catalog.deletions.delete(cache, [PATH.hash_part], deleted_by="tests", despite_pushes=True, now=now)
    assert len(done.paths) == 1
    assert {static(PATH), listing(PATH)} <= house.files()
    assert await fsck(house) == []


async def test_a_log_that_has_rotten_is_found_with_hashes_alone(house: House) -> None:
    derivation = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv")
    assert (await house.server.put(f"/log/{derivation}", b"built\n")).status == 200
    path = house.server.directory / "team" / "log" / derivation
    before = path.stat()
    path.write_bytes(b"burnt\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert await fsck(house) == []
    [finding] = await fsck(house, hashes=True, repair=True)
    assert (finding.fault, finding.key) == (Fault.DOCUMENT, f"team/log/{derivation}")
    assert "its hash is sha256:" in finding.detail
    assert await fsck(house, hashes=True) == []


async def test_a_log_whose_bytes_are_gone_can_be_pushed_again(house: House) -> None:
    derivation = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv")
    assert (await push(house.server, GLIBC.claiming(deriver=derivation))).status == 200
    assert (await house.server.put(f"/log/{derivation}", b"built\n")).status == 200
    (house.server.directory / "team" / "log" / derivation).unlink()
    assert found(await fsck(house, repair=True)) == [(Fault.DOCUMENT, f"team/log/{derivation}")]
    assert (await house.server.put(f"/log/{derivation}", b"built\n")).status == 200
    assert (await house.server.get(f"/log/{derivation}")).body == b"built\n"
    assert await fsck(house) == []


async def test_a_path_in_chunks_has_a_narinfo_for_a_rebuild(house: House) -> None:
    await make_chunks(house)
    await house.look(7 * 86_400)
    key = BlobKey(f"team/chunked/{PATH.hash_part}")
    assert key in house.files()
    assert await fsck(house) == []
    await house.server.node.blobs.delete(key)
    (found,) = await fsck(house, repair=True)
    assert (found.fault, found.key) == (Fault.NO_STATIC, key)
    await house.look(8 * 86_400)
    assert await fsck(house) == []
    await house.server.node.blobs.put(BlobKey(f"team/chunked/{'0' * 32}"), b"", {})
    house.clock.ahead += _LATER
    (stale,) = await fsck(house, repair=True)
    assert stale.fault is Fault.STALE_STATIC
    await house.look(house.clock.ahead)
    assert await fsck(house) == []
