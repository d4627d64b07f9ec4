"""A catalog that was deleted by hand: made anew from the files, it gives the same answers."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import backing
import chunking
import pytest
from chunking import LIBRARY, make_chunks
from house import Clock, House, blob, static, team
from lab import Lab
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, push
from pushing import OTHER, TEAM, PushServer, pushed_to
from waiting import eventually

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheSettings, Timestamp
from harmonia_py.catalog.strays import unknown_path
from harmonia_py.chunks.frames import frame_size
from harmonia_py.chunks.pack_collector import PacksCollected
from harmonia_py.contents.blobs import BlobInfo, BlobKey, BlobStore
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.publishing import Publisher
from harmonia_py.push.rebuilding import Rebuilt

DAY: Final = 86_400
CREW: Final = CacheName("crew")
DERIVATION: Final = StorePath("2lrp00vkg03d9pzkcaxdz8xxlvvd7cq8-glibc.drv")


class KilledError(Exception):
    """What a rebuild does not go on after."""


def change_text(file: Path, old: bytes, new: bytes) -> Callable[[], None]:
    """Change what a file says, which is as long and as old as before; what is returned puts it right again."""
    data, before = file.read_bytes(), file.stat()
    assert data.count(old) == 1
    assert len(old) == len(new)

    def write(text: bytes) -> None:
        file.write_bytes(text)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    write(data.replace(old, new))
    return lambda: write(data)


def copy_plainly(file: Path) -> None:
    """Put a copy in the place of a file, as `cp` without options makes it."""
    copy = file.with_name(".copy")
    shutil.copyfile(file, copy)
    copy.replace(file)


def change_nar_size(narinfo: Path) -> Callable[[], None]:
    """As `change_text`: one digit of the size of its NAR is wrong."""
    line = next(line for line in narinfo.read_bytes().splitlines() if line.startswith(b"NarSize: "))
    return change_text(narinfo, line, line[:-1] + (b"1" if line.endswith(b"2") else b"2"))


def list_in_order(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, paths: Sequence[StorePath], *, backwards: bool
) -> None:
    """Have the narinfos of these paths listed in this order, or backwards: that of a directory is any."""
    unordered, keys = blobs.list, [static(path) for path in paths]

    async def ordered() -> AsyncIterator[BlobInfo]:
        found = [info async for info in unordered()]
        rank = {key: number for number, key in enumerate(keys)}
        for info in sorted(found, key=lambda one: rank.get(one.key, -1), reverse=backwards):
            yield info

    monkeypatch.setattr(blobs, "list", ordered)


async def answers(server: PushServer, *paths: StorePath) -> dict[str, bytes]:
    """What readers are given of these."""
    found = {}
    for path in paths:
        narinfo = await server.get(f"/{path.hash_part}.narinfo")
        assert narinfo.status == 200
        found[f"{path}.narinfo"] = narinfo.body
        found[f"{path}.ls"] = (await server.get(f"/{path.hash_part}.ls")).body
        url = next(line for line in narinfo.body.decode().splitlines() if line.startswith("URL: "))[5:]
        found[f"{path}.nar"] = (await server.get(f"/{url}")).body
    return found


async def take_bucket(server: PushServer) -> None:
    """As the command does before a rebuild: a bucket whose catalog was lost belongs to none."""
    if server.node.files.owner is not None:
        await server.node.files.owner.check(fits=True)


async def test_a_catalog_that_is_deleted_is_rebuilt_with_the_same_answers(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(priority=17)) as server:
        house = House(server, Clock())
        await house.published(GLIBC.claiming(deriver=DERIVATION), HELLO)
        assert (await server.put(f"/log/{DERIVATION}", b"built\n")).status == 200
        before = await answers(server, PATH, REFERENCE)
    backing.lose_catalog(tmp_path)
    async with pushed_to(tmp_path, STORE) as server:
        assert (await server.get(f"/{PATH.hash_part}.narinfo")).status == 404
        done = await server.node.caches.rebuild().run()
        assert done == Rebuilt(caches=0, paths=2, logs=1), "the caches were made by this server's start"
        assert await answers(server, PATH, REFERENCE) == before
        assert (await server.get(f"/log/{DERIVATION}")).body == b"built\n"
        assert await server.node.caches.rebuild().run() == Rebuilt(), "again: nothing is left to do"
        house = House(server, Clock())
        await house.look(0)
        assert {blob(GLIBC), blob(HELLO)} <= house.files()
        head = await server.get(f"/push/r2/{PATH.hash_part}.narinfo", token="pusher", method="HEAD")
        assert head.status == 200, "a client pushes nothing of it again"


async def keep_house(house: House, caplog: pytest.LogCaptureFixture, said: str) -> None:
    """Let the housekeeping of a server that has just started run until it has said this."""
    running = asyncio.create_task(house.service.run())
    await eventually(lambda: said in caplog.text)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_server_that_starts_without_its_catalog_deletes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It took every file for one of a push that was cut short: what could have been found again was deleted."""
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        before, files = await answers(server, PATH, REFERENCE), house.files()
    backing.lose_catalog(tmp_path)
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        for days in (0, 8, 30):
            house.clock.ahead = days * DAY
            caplog.clear()
            await keep_house(house, caplog, "fsck --rebuild")
        assert house.files() >= files
        await server.node.caches.rebuild().run()
        assert await answers(server, PATH, REFERENCE) == before


async def test_a_server_that_starts_with_an_older_catalog_collects_nothing_until_it_is_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Files that were being pushed when a backup was made, and were published after it, were deleted at the start."""
    async with pushed_to(tmp_path, STORE) as server:
        assert (await server.put(GLIBC.place, GLIBC.data)).status == 200
    put_back = backing.back_up_catalog(tmp_path)
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        before, files = await answers(server, PATH, REFERENCE), house.files()
    put_back()
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        house.clock.ahead = 30 * DAY  # the push is dead by then
        await keep_house(house, caplog, "Nothing is collected")
        assert house.files() >= files
        await server.node.caches.rebuild().run()
        assert await unknown_path(server.node.blobs, server.catalog.repairs) is None
        await house.look(30 * DAY)
        assert await answers(server, PATH, REFERENCE) == before


async def test_a_catalog_from_before_paths_were_made_into_chunks_costs_no_chunk(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Packs and recipes, the only copy by then, were taken for those of a job that was cut short, and deleted."""
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        await house.published(LIBRARY, chunking.HELLO)
    put_back = backing.back_up_catalog(tmp_path)
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        assert (await make_chunks(house)).files == 2
        await house.look(7 * DAY)
        files = house.files()
    put_back()
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        house.clock.ahead = 9 * DAY
        await keep_house(house, caplog, "Nothing is collected")
        assert house.files() >= {name for name in files if name.startswith(("packs/", "recipes/"))}


async def test_a_cache_that_is_being_deleted_is_no_sign_of_a_lost_catalog(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        await house.published(GLIBC, HELLO)
        node, repairs = server.node, server.catalog.repairs
        assert await unknown_path(node.blobs, repairs) is None
        assert await server.catalog.caches.delete(TEAM, now=node.now())
        assert await unknown_path(node.blobs, repairs) is None


@pytest.fixture
async def chunked(tmp_path: Path) -> dict[str, bytes]:
    """What readers were given of paths that are in chunks, before the catalog was lost."""
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        await house.published(LIBRARY, chunking.HELLO)
        assert (await make_chunks(house)).files == 2
        await house.look(7 * 86_400)
        assert not list(backing.directory(tmp_path).glob("nar/*.nar.zst"))
        before = await answers(server, PATH, REFERENCE)
    backing.lose_catalog(tmp_path)
    return before


async def test_what_is_in_chunks_is_found_by_its_recipes_and_packs(tmp_path: Path, chunked: dict[str, bytes]) -> None:
    """`fsck --rebuild` found whole files alone: what was in chunks was lost with the catalog."""
    async with pushed_to(tmp_path, STORE) as server:
        assert (await server.get(f"/{PATH.hash_part}.narinfo")).status == 404
        done = await server.node.caches.rebuild().run()
        assert (done.packs, done.paths, done.waiting, done.faults) == (1, 2, 0, {})
        assert await answers(server, PATH, REFERENCE) == chunked
        again = await server.node.caches.rebuild().run()
        assert again == Rebuilt(), "nothing is left to do"


async def test_packs_that_were_found_stay_while_paths_need_them_and_go_with_these(
    tmp_path: Path, chunked: dict[str, bytes]
) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        await take_bucket(server)
        await server.node.caches.rebuild().run()
        later = lambda: Timestamp(server.node.now() + 8 * DAY)  # noqa: E731
        house, collector = House(server, Clock()), server.node.chunking.pack_collector(now=later)
        await house.look(8 * DAY)
        assert await collector.run() == PacksCollected()
        assert await answers(server, PATH, REFERENCE) == chunked
        row = await team(house)
        for path in (PATH, REFERENCE):
            await server.catalog.deletions.delete(
                row.id, [path.hash_part], deleted_by="test", despite_pushes=True, now=server.node.now()
            )
        await house.look(16 * DAY)
        assert (await collector.run()).removed == 1
        await house.look(24 * DAY)
        assert house.files() == {"team/nix-cache-info"}


async def test_a_rebuild_that_was_cut_off_after_the_packs_leaves_them_to_the_next_one(
    tmp_path: Path, chunked: dict[str, bytes]
) -> None:
    """Nothing uses a pack before its recipes are named: the server would have deleted it as unused."""
    async with pushed_to(tmp_path, STORE) as server:
        node = server.node
        packs = [f"packs/{file.name}" for file in (backing.directory(tmp_path) / "packs").iterdir()]
        assert (await node.chunking.rebuilt(lambda _: None).name_packs(packs)).packs == 1
        assert (await node.chunking.pack_collector().run()).removed == 0
        await House(server, Clock()).look(0)
        done = await node.caches.rebuild().run()
        assert (done.packs, done.paths, done.faults) == (0, 2, {})
        assert await answers(server, PATH, REFERENCE) == chunked


async def test_what_a_pack_has_not_right_leaves_out_what_needs_it_and_nothing_else(
    tmp_path: Path, chunked: dict[str, bytes]
) -> None:
    (pack,) = (backing.directory(tmp_path) / "packs").iterdir()
    data, before = bytearray(pack.read_bytes()), pack.stat()
    first = frame_size(bytes(data))
    assert first < len(data)
    data[-8] ^= 1  # in the last frame, which is the larger path's
    pack.write_bytes(data)
    os.utime(pack, ns=(before.st_atime_ns, before.st_mtime_ns))
    async with pushed_to(tmp_path, STORE) as server:
        done = await server.node.caches.rebuild().run()
        assert (done.packs, done.paths) == (1, 1)
        assert list(done.faults) == [f"team/chunked/{PATH.hash_part}"]
        found = await answers(server, REFERENCE)
        assert found == {name: chunked[name] for name in found}


async def test_a_pack_without_a_chunk_that_is_right_is_named(tmp_path: Path, chunked: dict[str, bytes]) -> None:
    """Where its first frame does not say how long it is, no other frame of it can be found."""
    assert len(chunked) == 6
    (pack,) = (backing.directory(tmp_path) / "packs").iterdir()
    data, before = bytearray(pack.read_bytes()), pack.stat()
    data[0] ^= 1
    pack.write_bytes(data)
    os.utime(pack, ns=(before.st_atime_ns, before.st_mtime_ns))
    async with pushed_to(tmp_path, STORE) as server:
        done = await server.node.caches.rebuild().run()
        assert (done.packs, done.paths) == (0, 0)
        assert done.faults[f"packs/{pack.name}"] == "it has no chunk that is right"


async def test_a_narinfo_that_outlived_its_file_does_not_hide_the_chunks_of_the_path(
    tmp_path: Path, chunked: dict[str, bytes]
) -> None:
    """What lay in both places was looked for in the first one alone, and given up when it was not there."""
    narinfo = (backing.directory(tmp_path) / "team" / "chunked" / REFERENCE.hash_part).read_bytes()
    stale = re.sub(rb"URL: [./]+recipes/(\w+)", rb"URL: ../nar/\1.nar.zst", narinfo)
    assert stale != narinfo
    async with pushed_to(tmp_path, STORE) as server:
        await take_bucket(server)
        await server.node.blobs.put(BlobKey(static(REFERENCE)), stale, {})
        done = await server.node.caches.rebuild().run()
        assert (done.paths, done.faults) == (2, {})
        assert await answers(server, PATH, REFERENCE) == chunked


@pytest.mark.parametrize("lost", ["narinfo", "nar", "log", "nix-cache-info"])
async def test_what_a_copy_has_lost_the_attributes_of_is_named_and_not_passed_over(tmp_path: Path, lost: str) -> None:
    """A copy that `tar`, `cp -r` or `rsync` had made gave no path and no fault: all was taken for not there."""
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC.claiming(deriver=DERIVATION))
        assert (await server.put(f"/log/{DERIVATION}", b"built\n")).status == 200
    backing.lose_catalog(tmp_path)
    (backing.directory(tmp_path) / TEAM).rename(backing.directory(tmp_path) / CREW)
    key = {
        "narinfo": f"crew/{REFERENCE.hash_part}.narinfo",
        "nar": blob(GLIBC),
        "log": f"crew/log/{DERIVATION}",
        "nix-cache-info": "crew/nix-cache-info",
    }[lost]
    copy_plainly(backing.directory(tmp_path) / key)
    async with pushed_to(tmp_path, STORE) as server:
        faults = (await server.node.caches.rebuild().run()).faults
        assert list(faults) == [f"crew/{REFERENCE.hash_part}.narinfo" if lost == "nar" else key]
        assert "rsync -X" in "".join(faults.values())


@pytest.mark.parametrize("lost", ["packs", "recipes"])
async def test_packs_and_recipes_that_a_copy_has_lost_the_attributes_of_are_named(
    tmp_path: Path, chunked: dict[str, bytes], lost: str
) -> None:
    assert len(chunked) == 6
    for file in (backing.directory(tmp_path) / lost).iterdir():
        copy_plainly(file)
    async with pushed_to(tmp_path, STORE) as server:
        faults = (await server.node.caches.rebuild().run()).faults
        named = {key.partition("/")[0] for key, fault in faults.items() if "rsync -X" in fault}
        assert named == ({"packs"} if lost == "packs" else {"team"})


async def test_caches_come_back_by_their_files_with_what_their_cache_info_says(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(priority=17)) as server:
        await House(server, Clock()).published(GLIBC)
        for place, data in ((GLIBC.place, GLIBC.data), (f"/{REFERENCE.hash_part}.narinfo", GLIBC.narinfo)):
            answer = await server.request("PUT", f"/{OTHER}/push{place}", data, token="stranger")
            assert answer.status == 200
        await server.node.static_writer.written()
        for name in (TEAM, OTHER):
            assert (backing.directory(tmp_path) / name / "nix-cache-info").is_file()
    (tmp_path / "elsewhere").mkdir()
    backing.lose_catalog(tmp_path)
    backing.directory(tmp_path).rename(backing.directory(tmp_path / "elsewhere"))
    (backing.directory(tmp_path / "elsewhere") / TEAM).rename(backing.directory(tmp_path / "elsewhere") / CREW)
    async with pushed_to(tmp_path / "elsewhere", STORE) as server:
        done = await server.node.caches.rebuild().run()
        assert (done.caches, done.paths) == (1, 2)
        caches = {row.name: row.settings for row in await server.catalog.caches.page(None, 10)}
        assert (caches[CREW].priority, caches[CREW].public) == (17, False)


async def test_a_file_that_is_not_what_its_narinfo_says_is_left_out_with_what_references_it(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC, HELLO)
    backing.lose_catalog(tmp_path)
    file = backing.directory(tmp_path) / blob(GLIBC)
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    async with pushed_to(tmp_path, STORE) as server:
        done = await server.node.caches.rebuild().run()
        assert list(done.faults) == [f"team/{REFERENCE.hash_part}.narinfo"]
        assert (done.paths, done.waiting) == (0, 1)
        assert (await server.get(f"/{PATH.hash_part}.narinfo")).status == 404
        assert (await push(server, GLIBC)).status == 200
        assert (await server.get(f"/{PATH.hash_part}.narinfo")).status == 200, "it has waited for that"


async def test_what_a_rebuild_refuses_is_there_when_its_narinfo_is_put_right(tmp_path: Path) -> None:
    """One wrong digit in a narinfo, and the next pass of the collector had deleted its NAR, which was whole."""
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC, HELLO)
        before = await answers(server, PATH, REFERENCE)
    backing.lose_catalog(tmp_path)
    right = change_nar_size(backing.directory(tmp_path) / static(REFERENCE))
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        done = await server.node.caches.rebuild().run()
        assert list(done.faults) == [static(REFERENCE)]
        await house.look(0)
        await house.look(6 * DAY)
        assert {blob(GLIBC), blob(HELLO)} <= house.files()
        right()
        done = await server.node.caches.rebuild().run()
        assert (done.paths, done.faults) == (2, {})
        assert await answers(server, PATH, REFERENCE) == before


async def test_chunks_of_what_a_rebuild_refuses_are_there_when_its_narinfo_is_put_right(
    tmp_path: Path, chunked: dict[str, bytes]
) -> None:
    right = change_nar_size(backing.directory(tmp_path) / "team" / "chunked" / REFERENCE.hash_part)
    async with pushed_to(tmp_path, STORE) as server:
        later = lambda: Timestamp(server.node.now() + 6 * DAY)  # noqa: E731
        house, collector = House(server, Clock()), server.node.chunking.pack_collector(now=later)
        before = house.files()
        done = await server.node.caches.rebuild().run()
        assert list(done.faults) == [f"team/chunked/{REFERENCE.hash_part}"]
        await house.look(6 * DAY)
        assert (await collector.run()).removed == 0
        assert {file for file in before if file.startswith(("packs/", "recipes/"))} <= house.files()
        right()
        assert (await server.node.caches.rebuild().run()).paths == 2
        assert await answers(server, PATH, REFERENCE) == chunked


async def test_the_log_of_what_a_rebuild_refuses_is_there_when_that_is_put_right(tmp_path: Path) -> None:
    """It went with the session of the rebuild, a day later: none of the outputs was there to keep it."""
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC.claiming(deriver=DERIVATION))
        assert (await server.put(f"/log/{DERIVATION}", b"built\n")).status == 200
    backing.lose_catalog(tmp_path)
    right = change_nar_size(backing.directory(tmp_path) / static(REFERENCE))
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        assert (await server.node.caches.rebuild().run()).paths == 0
        await house.look(2 * DAY)
        right()
        assert (await server.node.caches.rebuild().run()).paths == 1
        await house.look(4 * DAY)
        assert (await server.get(f"/log/{DERIVATION}")).body == b"built\n"


async def test_a_narinfo_under_the_name_of_another_path_is_left_out(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC, HELLO)
    backing.lose_catalog(tmp_path)
    other = StorePath(f"{'0' * 32}-other")
    (backing.directory(tmp_path) / static(REFERENCE)).rename(backing.directory(tmp_path) / static(other))
    async with pushed_to(tmp_path, STORE) as server:
        done = await server.node.caches.rebuild().run()
        assert list(done.faults) == [static(other)]
        assert (await server.get(f"/{REFERENCE.hash_part}.narinfo")).status == 404


@pytest.mark.parametrize("referrer_first", [False, True], ids=["reference-first", "referrer-first"])
async def test_a_rebuild_that_is_cut_off_beside_a_server_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, referrer_first: bool
) -> None:
    """What came before its references waited for an hour, and was deleted: so a longer rebuild lost NARs."""
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC, HELLO)
        before = await answers(server, PATH, REFERENCE)
    backing.lose_catalog(tmp_path)
    async with pushed_to(tmp_path, STORE) as server:
        list_in_order(server.node.blobs, monkeypatch, [PATH, REFERENCE], backwards=not referrer_first)
        house, read = House(server, Clock()), list[int]()

        def cut_off(size: int) -> None:
            read.append(size)
            if len(read) == 2:
                raise KilledError

        with pytest.raises(KilledError):
            await server.node.caches.rebuild(cut_off).run()
        await house.look(2 * 3600)
        assert {blob(GLIBC), blob(HELLO)} <= house.files()
        assert (await server.node.caches.rebuild().run()).faults == {}
        assert await answers(server, PATH, REFERENCE) == before


async def test_a_file_that_a_rebuild_had_read_when_it_was_cut_off_is_found_by_one_days_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was taken for one of a push that was cut off, and deleted with the session a day later."""
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC)
        before = await answers(server, REFERENCE)
    backing.lose_catalog(tmp_path)
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())

        async def cut_off(*_: object) -> None:
            raise KilledError

        with monkeypatch.context() as patch:
            patch.setattr(Publisher, "check", cut_off)
            with pytest.raises(KilledError):
                await server.node.caches.rebuild().run()
        await house.look(6 * DAY)
        assert blob(GLIBC) in house.files()
        assert (await server.node.caches.rebuild().run()).paths == 1
        assert await answers(server, REFERENCE) == before


async def test_what_waits_for_a_path_that_was_lost_is_there_when_that_is_pushed_days_later(tmp_path: Path) -> None:
    """One NAR was lost, and an hour after the rebuild all that references it was deleted."""
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC, HELLO)
        before = await answers(server, PATH)
    backing.lose_catalog(tmp_path)
    (backing.directory(tmp_path) / blob(GLIBC)).unlink()
    async with pushed_to(tmp_path, STORE) as server:
        house = House(server, Clock())
        await take_bucket(server)
        done = await server.node.caches.rebuild().run()
        assert (list(done.faults), done.waiting) == ([static(REFERENCE)], 1)
        await house.look(6 * DAY)
        assert blob(HELLO) in house.files()
        assert (await push(server, GLIBC)).status == 200
        assert await answers(server, PATH) == before


async def test_nothing_is_published_beside_a_reference_whose_narinfo_cannot_be_read(tmp_path: Path) -> None:
    """The reference was taken for one that the cache has from elsewhere."""
    async with pushed_to(tmp_path, STORE) as server:
        await House(server, Clock()).published(GLIBC, HELLO)
    backing.lose_catalog(tmp_path)
    change_text(backing.directory(tmp_path) / static(REFERENCE), b"StorePath: ", b"StorePxth: ")
    async with pushed_to(tmp_path, STORE) as server:
        done = await server.node.caches.rebuild().run()
        assert (list(done.faults), done.paths, done.waiting) == ([static(REFERENCE)], 0, 1)
        assert (await server.get(f"/{PATH.hash_part}.narinfo")).status == 404


@pytest.mark.parametrize(
    ("compression", "in_chunks"), [("xz", False), ("none", False), ("zstd", True)], ids=["xz", "none", "chunks"]
)
async def test_stock_nix_substitutes_what_was_rebuilt_and_pushes_nothing_again(
    lab: Lab, tmp_path: Path, compression: str, *, in_chunks: bool
) -> None:
    top = lab.closure.top
    async with pushed_to(tmp_path, lab.store_dir) as server:
        await server.copy(lab, top, compression=compression)
        await server.node.static_writer.written()
        if in_chunks:
            house = House(server, Clock())
            assert (await make_chunks(house)).files == 3
            await house.look(7 * DAY)
    backing.lose_catalog(tmp_path)
    async with pushed_to(tmp_path, lab.store_dir) as server:
        done = await server.node.caches.rebuild().run()
        assert (done.paths, done.waiting, done.faults) == (3, 0, {})
        narinfo = NarInfo.parse((await server.get(f"/{top.hash_part}.narinfo")).body, lab.store_dir)
        assert {path.hash_part for path in narinfo.path_info.references} >= {lab.closure.input2.hash_part}
        client = await server.substitute(lab, "client", top)
        assert client.run("nix-store", "--dump", lab.full(top)).stdout == lab.dump(top)
        await server.copy(lab, top, run="r2", compression=compression)
        assert not [line for line in server.seen if line.startswith("PUT")]
