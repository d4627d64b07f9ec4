"""What other programs read of a cache: beside its narinfos their listings."""

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Mapping
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Final

import backing
import pytest
from house import House, listing, static, team
from pushed_paths import GLIBC, PATH, REFERENCE, STORE, Pushed, push, pushed
from pushing import pushed_to
from trees import File, Folder

from harmonia_py.cache.cache_name import CacheName
from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.collection import Reason
from harmonia_py.catalog.objects import ObjectState
from harmonia_py.catalog.uploads import SESSION_SECONDS
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.database.transaction import Together, Topic, Transaction
from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.nix import base32
from harmonia_py.nix.store_path import HashPart, StorePath
from harmonia_py.push import static_writer
from harmonia_py.push.findings import MAX_INLINE_LISTING
from harmonia_py.push.static_side import Deleter, StaticSide

# Its listing is too long for a row of the catalog.
LARGE = pushed(PATH, Folder({f"{number:0200}".encode(): File(b"x") for number in range(400)}), compression="zstd")


@pytest.mark.parametrize("what", [GLIBC, LARGE], ids=["short", "long"])
async def test_a_listing_lies_beside_its_narinfo_as_the_server_answers_it(house: House, what: Pushed) -> None:
    await house.published(what)
    data = (house.server.directory / listing(what.path)).read_bytes()
    assert (len(data) > MAX_INLINE_LISTING) is (what is LARGE)
    assert data == (await house.server.get(f"/{what.path.hash_part}.ls")).body
    assert json.loads(data)["root"]["type"] == "directory"


async def test_no_narinfo_is_there_before_its_listing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = type(house.server.node.blobs)
    put = blobs.put

    async def refuse(self: Any, key: BlobKey, *arguments: Any, **more: Any) -> None:
        if key == listing(REFERENCE):
            raise StorageFull("no space left on device")
        await put(self, key, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(blobs, "put", refuse)
        await house.published(GLIBC)
    assert not {static(REFERENCE), listing(REFERENCE)} & house.files()
    await house.look(0)
    assert {static(REFERENCE), listing(REFERENCE)} <= house.files()


async def test_a_narinfo_that_is_renewed_while_it_is_written_is_never_there_without_its_listing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill of every process left a narinfo alone.

    One process had written the listing. The one that collects deleted it, to write both anew. Then came the narinfo.
    """
    await house.published(GLIBC)
    side = house.server.node.caches.static_side(await team(house), [])
    for name in (static(REFERENCE), listing(REFERENCE)):
        (house.server.directory / name).unlink()

    async def side_of(_name: CacheName) -> StaticSide:
        return side

    blobs = type(house.server.node.blobs)
    put, delete = blobs.put, blobs.delete
    comes_to_narinfo, goes_on = asyncio.Event(), asyncio.Event()
    seen = list[set[str]]()

    async def hold(self: Any, key: BlobKey, *arguments: Any, **more: Any) -> None:
        if key == static(REFERENCE) and not comes_to_narinfo.is_set():
            comes_to_narinfo.set()
            await goes_on.wait()
        await put(self, key, *arguments, **more)
        seen.append({static(REFERENCE), listing(REFERENCE)} & house.files())

    async def release(self: Any, key: BlobKey) -> None:
        await delete(self, key)
        if key == listing(REFERENCE):
            goes_on.set()
            await writing

    monkeypatch.setattr(blobs, "put", hold)
    monkeypatch.setattr(blobs, "delete", release)
    writing = asyncio.create_task(side.write([REFERENCE.hash_part]))
    await comes_to_narinfo.wait()
    deleter = Deleter(house.server.node.blobs, side_of, house.server.catalog.objects.paths)
    assert await deleter.delete([static(REFERENCE)]) == []
    goes_on.set()
    await writing
    assert seen
    assert {static(REFERENCE)} not in seen
    assert {static(REFERENCE), listing(REFERENCE)} <= house.files()


async def test_a_narinfo_whose_path_is_deleted_while_it_is_written_goes_as_well(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing named it any more: the next start found a path that the catalog does not have, and collected nothing."""
    await house.published(GLIBC)
    cache = await team(house)
    side = house.server.node.caches.static_side(cache, [])
    put = type(house.server.node.blobs).put

    async def late(self: Any, key: BlobKey, *arguments: Any, **more: Any) -> None:
        if key == static(REFERENCE):
            deletions = house.server.catalog.deletions
            gone = await deletions.delete(
                cache.id, [REFERENCE.hash_part], deleted_by="me", despite_pushes=True, now=Timestamp(int(house.clock()))
            )
            assert gone.paths
            await house.look(1)
            assert static(REFERENCE) not in house.files()
        await put(self, key, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(house.server.node.blobs), "put", late)
        await side.write([REFERENCE.hash_part])
    assert static(REFERENCE) in house.files()
    await house.look(2)
    assert static(REFERENCE) not in house.files()


async def test_a_narinfo_that_cannot_be_renewed_goes_before_the_bytes_that_it_may_name(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.published(GLIBC)
    side = house.server.node.caches.static_side(await team(house), [])

    async def side_of(_name: CacheName) -> StaticSide:
        return side

    async def refuse(_self: Any, _key: BlobKey, *_arguments: Any, **_more: Any) -> None:
        raise StorageFull("no space left on device")

    deleter = Deleter(house.server.node.blobs, side_of, house.server.catalog.objects.paths)
    both = {static(REFERENCE), listing(REFERENCE)}
    with monkeypatch.context() as patch:
        patch.setattr(type(house.server.node.blobs), "put", refuse)
        assert await deleter.delete([static(REFERENCE)]) == [static(REFERENCE)], "the collector tries again"
    assert not both & house.files()
    assert await deleter.delete([static(REFERENCE)]) == []
    assert both <= house.files()


def _tiny(number: int) -> Pushed:
    path = StorePath(f"{base32.encode(sha256(str(number).encode()).digest()[:20])}-tiny")
    return pushed(path, File(str(number).encode()))


async def test_an_error_of_ours_with_one_narinfo_leaves_no_other_unwritten(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It discarded what had become of the other 127: those that could not be written were missing until `fsck`."""
    good, full, wrong = (_tiny(number) for number in range(3))
    put = type(house.server.node.blobs).put

    async def fail(self: Any, key: BlobKey, *arguments: Any, **more: Any) -> None:
        if key == static(full.path):
            raise StorageFull("no space left on device")
        if key == static(wrong.path):
            raise ZeroDivisionError
        await put(self, key, *arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(type(house.server.node.blobs), "put", fail)
        await house.published(wrong, full, good)
    assert {static(one.path) for one in (good, full, wrong)} & house.files() == {static(good.path)}
    await house.look(0)
    assert {static(one.path) for one in (good, full, wrong)} <= house.files()


async def test_an_error_of_ours_that_stays_is_explained_once_a_minute(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each pass of the collector tries again, and logged a traceback for each path."""
    tiny = [_tiny(number) for number in range(3)]
    wrong = {static(one.path) for one in tiny}
    put = type(house.server.node.blobs).put

    async def fail(self: Any, key: BlobKey, *arguments: Any, **more: Any) -> None:
        if key in wrong:
            raise ZeroDivisionError
        await put(self, key, *arguments, **more)

    monkeypatch.setattr(type(house.server.node.blobs), "put", fail)
    await house.published(*tiny)
    for _ in range(2):
        await house.look(0)
    explained = [record for record in caplog.records if record.exc_info and "error of ours" in record.getMessage()]
    assert [record.levelname for record in explained] == ["ERROR"]
    named = [record.getMessage() for record in caplog.records if "ZeroDivisionError" in record.getMessage()]
    assert all(any(str(one.path) in message for message in named) for one in tiny), "each path is named all the same"


async def test_what_is_written_in_the_place_of_garbage_is_written_a_part_at_a_time(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand listings were in memory together."""
    monkeypatch.setattr("harmonia_py.push.static_side._TOGETHER", 2)
    tiny = [_tiny(number) for number in range(5)]
    await house.published(*tiny)
    side = house.server.node.caches.static_side(await team(house), [])
    together: list[int] = []

    async def side_of(_name: CacheName) -> StaticSide:
        return side

    write = StaticSide.write

    async def noted(side: StaticSide, hash_parts: Collection[HashPart]) -> Any:
        together.append(len(hash_parts))
        return await write(side, hash_parts)

    monkeypatch.setattr(StaticSide, "write", noted)
    deleter = Deleter(house.server.node.blobs, side_of, house.server.catalog.objects.paths)
    assert await deleter.delete([static(one.path) for one in tiny]) == []
    assert together == [2, 2, 1]
    assert {static(one.path) for one in tiny} <= house.files()


async def test_a_listing_goes_after_its_narinfo_and_both_come_again_where_the_path_has_come_meanwhile(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.published(GLIBC)
    side = house.server.node.caches.static_side(await team(house), [])

    async def side_of(_name: CacheName) -> StaticSide:
        return side

    blobs = type(house.server.node.blobs)
    delete, deleted = blobs.delete, list[str]()

    async def note(self: Any, key: BlobKey) -> None:
        deleted.append(key)
        await delete(self, key)
        if key.endswith(".ls") and deleted.count(key) == 1:
            raise StorageError("it cannot be told")

    looks = count()

    async def paths(cache: CacheId, hash_parts: Collection[HashPart]) -> Mapping[HashPart, StorePath]:
        """The path comes between the two looks of each deletion."""
        return await house.server.catalog.objects.paths(cache, hash_parts) if next(looks) % 2 else {}

    monkeypatch.setattr(blobs, "delete", note)
    deleter = Deleter(house.server.node.blobs, side_of, paths)
    both = [static(REFERENCE), listing(REFERENCE)]
    # In its place, were the path made of chunks.
    chunked = f"team/chunked/{REFERENCE.hash_part}"
    assert await deleter.delete([static(REFERENCE)]) == [static(REFERENCE)], "the collector tries again"
    assert deleted == [*both, chunked]
    assert set(both) <= house.files()
    assert await deleter.delete([static(REFERENCE)]) == []
    assert deleted == [*both, chunked] * 2
    assert set(both) <= house.files()


async def test_new_signatures_leave_the_listing_as_it_is(house: House) -> None:
    """A key that was rotated wrote every listing again, the long ones of 256 MiB as well."""
    await house.published(GLIBC)
    side = house.server.node.caches.static_side(await team(house), [])
    files = [house.server.directory / name for name in (static(REFERENCE), listing(REFERENCE))]
    narinfo, ls = (file.stat().st_ino for file in files)
    await side.write([REFERENCE.hash_part], is_renewal=True)
    assert files[0].stat().st_ino != narinfo
    assert files[1].stat().st_ino == ls
    files[1].unlink()
    await side.write([REFERENCE.hash_part], is_renewal=True)
    assert files[1].exists(), "a cache that an earlier release wrote gets its listings"


async def test_what_is_condemned_is_written_and_stays_condemned(house: House) -> None:
    """A key that was rotated counted as a use of every path: nothing was collected for another period."""
    await house.published(GLIBC)
    cache, catalog = (await team(house)).id, house.server.catalog
    now = Timestamp(int(house.clock()) + 2 * SESSION_SECONDS)
    await catalog.collection.condemn(cache, [REFERENCE.hash_part], Reason.UNUSED, unused_since=now, now=now)
    place = house.server.directory / static(REFERENCE)
    place.unlink()
    await house.server.node.caches.static_side(await team(house), []).write([REFERENCE.hash_part], is_renewal=True)
    assert place.exists(), "readers still see it"
    stored = await catalog.objects.find(cache, REFERENCE.hash_part)
    assert stored is not None
    assert stored.state is ObjectState.CONDEMNED


_MANY: Final = 64
# A fifth of each is to spare.
_MOST_STATEMENTS: Final = 34
# A bucket is slower, so fewer narinfos wait for a question that they have in common.
_MOST_TRANSACTIONS: Final = 4.2 if backing.IN_BUCKET else 3.6


async def test_a_path_that_is_pushed_takes_few_statements_and_its_static_side_hardly_any(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each narinfo for other programs took three questions of its own, a tenth of what a path of a few bytes cost."""
    # However long the pushes take, what they want is written together.
    monkeypatch.setattr(static_writer, "_GATHER_SECONDS", 60.0)
    statements, transactions = [0], [0]
    database = type(house.server.catalog.database)

    def counting(method: Any) -> Any:
        async def ask(self: Any, transaction: Callable[[], Transaction[Any]], *topics: Topic, **more: Any) -> Any:
            transactions[0] += 1
            return await method(self, lambda: _counted(transaction(), statements), *topics, **more)

        return ask

    for name in ("read", "write"):
        monkeypatch.setattr(database, name, counting(getattr(database, name)))
    for number in range(_MANY):
        assert (await push(house.server, _tiny(number))).status == 200
    await house.server.node.static_writer.written()
    assert len([name for name in house.files() if name.endswith(".narinfo")]) == _MANY
    assert statements[0] / _MANY < _MOST_STATEMENTS
    assert transactions[0] / _MANY < _MOST_TRANSACTIONS


def _counted(transaction: Transaction[Any], statements: list[int]) -> Transaction[Any]:
    rows: Any = None
    while True:
        try:
            asked = transaction.send(rows)
        except StopIteration as end:
            return end.value
        statements[0] += len(asked.statements) if isinstance(asked, Together) else 1
        rows = yield asked


async def test_what_was_pushed_right_before_the_end_is_written_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that was stopped right after a push logged an error of its own: what reads files had ended before."""
    async with pushed_to(tmp_path, STORE) as server:
        for what in (GLIBC, LARGE):
            assert (await push(server, what)).status == 200
    assert not [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    found = {str(path.relative_to(server.directory)) for path in server.directory.rglob("*")}
    assert {f(what.path) for what in (GLIBC, LARGE) for f in (static, listing)} <= found
