"""What a mirror keeps, as chunks: served as before, had again when something is lost, held to the limits."""

import asyncio
import shutil
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from blob_readers import read_all
from chunking import nar_of
from fault_upstream import OTHER_KEY, STORE_DIR, FaultUpstream, Package
from mirror_chunks import World, build, mirrored, until
from mirrors import fetch, fetch_kept, settle
from msgspec.structs import replace
from nar_source import FileNar
from s3_double import S3Double

from harmonia_py.catalog.quota import Limits
from harmonia_py.contents.compressed import CompressedNars
from harmonia_py.contents.compressed_metrics import CompressedCounters
from harmonia_py.contents.compressing import Compressing
from harmonia_py.contents.encoders import Zstd
from harmonia_py.database.sqlite import SqliteDatabase
from harmonia_py.errors import StorageError, StorageFull
from harmonia_py.nix.hashes import Hash
from harmonia_py.storage.spool import DiskSpool


async def kept_as_chunks(world: World, *builds: Package) -> None:
    for one in builds:
        assert await world.fetch(one) == one.nar
    await world.make_chunks()
    await world.forget_grace()
    assert world.disk()["whole"] == 0


async def test_a_kept_nar_becomes_chunks_and_is_served_by_the_url_that_it_had(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    one, other = build(1), build(2)
    upstream.serve(one, other)
    async with mirrored(upstream.url, tmp_path) as world:
        await world.fetch(one)
        before = await world.mirror.narinfo(one.hash_part)
        assert before is not None
        await kept_as_chunks(world, one, other)
        after = await world.mirror.narinfo(one.hash_part)
        file = await world.file(one)
    assert after is not None
    assert file is not None
    assert after.narinfo == replace(before.narinfo, file_hash=Hash.of(file), file_size=len(file))
    assert after.origin.label == "kept"
    # A process that starts later, and whose upstream is gone.
    asked = len(upstream.requests)
    async with mirrored(upstream.url, tmp_path, offline=True) as world:
        assert await world.mirror.narinfo(one.hash_part) is not None
        assert [await world.fetch(one), await world.fetch(other)] == [one.nar, other.nar]
    assert len(upstream.requests) == asked


async def test_builds_that_differ_in_their_hash_parts_take_the_room_of_one(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    builds = [build(number) for number in range(4)]
    upstream.serve(*builds)
    async with mirrored(upstream.url, tmp_path) as world:
        await kept_as_chunks(world, *builds)
        assert world.disk().total() < 1.2 * len(builds[0].file)


async def test_chunks_of_a_mirror_in_a_bucket_are_served_and_collected(
    upstream: FaultUpstream, tmp_path: Path, double: S3Double
) -> None:
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path, bucket=double) as world:
        assert await world.fetch(one) == one.nar
        await world.make_chunks()
        await world.forget_grace()
        kinds = {key.split("/")[-2] for key in list(double.objects)}
        assert {"packs", "recipes"} <= kinds
        assert not [key for key in list(double.objects) if ".nar" in key]
        upstream.answers.clear()
        assert await world.fetch(one) == one.nar
        world.limits = Limits(max_size=1)
        await world.look()
        await world.forget_grace()
        assert not [key for key in list(double.objects) if "/packs/" in key or "/recipes/" in key]


async def test_what_came_as_xz_becomes_chunks_once_it_is_zstd_and_is_still_to_be_had_as_xz(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    one = build(1, compression="xz")
    upstream.serve(one)
    for recode in (False, True):
        async with mirrored(upstream.url, tmp_path / str(recode), recode=recode) as world:
            assert await fetch_kept(world.mirror, one) == one.file
            await world.make_chunks()
            assert bool(world.files("packs")) == recode
            assert await fetch_kept(world.mirror, one) == one.file
            assert await world.fetch(one) == one.nar


async def test_a_nar_that_lacks_a_chunk_is_cut_and_then_fetched_again(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path) as world:
        await kept_as_chunks(world, one)
        for pack in world.files("packs"):
            pack.unlink()
        with pytest.raises(StorageError, match="a chunk is lost"):
            await world.fetch(one)
        assert await world.fetch(one) == one.nar
        # Its chunks are stored anew, although the catalog has them.
        await kept_as_chunks(world, one)
        assert world.disk()["packs"] > 0
        upstream.answers.clear()
        assert await world.fetch(one) == one.nar


async def test_a_nar_whose_recipe_is_gone_is_fetched_again(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path) as world:
        await kept_as_chunks(world, one)
        for recipe in world.files("recipes"):
            recipe.unlink()
        assert await world.fetch(one) == one.nar
        found = await world.mirror.narinfo(one.hash_part)
        assert found is not None
        assert found.narinfo.file_hash == Hash.of(one.file)
        await kept_as_chunks(world, one)
        assert await world.fetch(one) == one.nar


async def test_the_scrub_finds_what_has_rotted_and_the_next_request_has_it_again(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path) as world:
        await kept_as_chunks(world, one)
        for pack in world.files("packs"):
            with pack.open("r+b") as file:
                file.seek(1000)
                file.write(b"rotten")
        assert await world.scrub() == 1
        assert await world.fetch(one) == one.nar
        await world.make_chunks()
        assert await world.scrub() == 0


async def test_without_its_catalog_nothing_of_the_chunks_is_left(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path) as world:
        await kept_as_chunks(world, one)
    shutil.rmtree(tmp_path / ".catalog")
    async with mirrored(upstream.url, tmp_path) as world:
        await world.take_over()
        await world.forget_grace()
        assert world.disk().total() == 0
        assert await world.fetch(one) == one.nar


async def test_while_the_catalog_fails_a_nar_in_chunks_is_fetched_again(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path) as world:
        await kept_as_chunks(world, one)

    async def fail(*_: object) -> None:
        raise StorageError("the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteDatabase, "read", fail)
        async with mirrored(upstream.url, tmp_path) as world:
            assert await fetch(world.mirror, one) == one.file
    async with mirrored(upstream.url, tmp_path, offline=True) as world:
        await world.take_over()
        assert await world.fetch(one) == one.nar


async def test_a_catalog_that_failed_for_a_moment_costs_no_second_download(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question that failed had all NARs in chunks fetched again for ten seconds, and kept whole in their place."""
    one, other = build(1), build(2, seed=2)
    upstream.serve(one, other)
    async with mirrored(upstream.url, tmp_path) as world:
        await kept_as_chunks(world, one, other)

    async def fail(*_: object) -> None:
        raise StorageError("the catalog did not answer in time")

    async with mirrored(upstream.url, tmp_path) as world:
        with monkeypatch.context() as patch:
            patch.setattr(SqliteDatabase, "read", fail)
            patch.setattr(SqliteDatabase, "scan", fail)
            assert await world.mirror.narinfo(one.hash_part) is not None
        upstream.answers.clear()
        assert [await world.fetch(one), await world.fetch(other)] == [one.nar, other.nar]
        await world.forget_grace()
        assert world.disk()["whole"] == 0


async def test_a_nar_that_becomes_chunks_while_it_is_asked_for_is_not_fetched_again(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look into the catalog and the opening of the file, that had gone: the upstream was asked for it.

    Later it counted as absent, so a NAR whose recipe was lost was not to be had although the upstream had it.
    """
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path, negative_ttl=3600.0) as world:
        await world.fetch(one)
        upstream.answers.clear()
        open_whole = world.kept_files.intake.open

        async def late(*arguments: Any, **named: Any) -> Any:
            monkeypatch.undo()
            await world.make_chunks()
            await world.forget_grace()
            return await open_whole(*arguments, **named)

        monkeypatch.setattr(world.kept_files.intake, "open", late)
        assert await world.fetch(one) == one.nar
        upstream.serve(one)
        for recipe in world.files("recipes"):
            recipe.unlink()
        assert await world.fetch(one) == one.nar


async def test_a_narinfo_that_changes_upstream_is_kept_of_a_nar_in_chunks_as_well(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    one = build(1)
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path, narinfo_ttl=0.0) as world:
        await kept_as_chunks(world, one)
    signatures = (*one.path_info.signatures, OTHER_KEY.sign(one.path_info.fingerprint(STORE_DIR)))
    changed = replace(one, path_info=replace(one.path_info, signatures=signatures))
    upstream.serve(changed)
    async with mirrored(upstream.url, tmp_path, narinfo_ttl=0.0) as world:
        assert await world.mirror.narinfo(one.hash_part) is not None
        await settle(world.mirror)
    async with mirrored(upstream.url, tmp_path, offline=True) as world:
        found = await world.mirror.narinfo(one.hash_part)
        assert found is not None
        assert set(found.narinfo.path_info.signatures) == set(signatures)
        assert await world.fetch(one) == one.nar


async def test_the_local_store_offers_what_a_mirror_has_in_chunks(upstream: FaultUpstream, tmp_path: Path) -> None:
    """A path that was imported is in both; its compressed file would have been the recipe."""
    one = build(1)
    upstream.serve(one)
    file = tmp_path / "nar"
    file.write_bytes(one.nar)
    async with mirrored(upstream.url, tmp_path / "kept") as world:
        await kept_as_chunks(world, one)
        compressing = Compressing(settings=Zstd(), at_once=1)
        async with CompressedNars(
            FileNar(file, one.path_info),
            world.kept_files.intake,
            world.kept_files.kept,
            compressing,
            CompressedCounters(),
        ) as compressed:
            found = await compressed.narinfo(one.hash_part)
            download = await compressed.nar(replace(one, compression="zstd").our_url)
            assert found is not None
            assert download is not None
            with download:
                data = await read_all(download.pieces(0, download.size))
    assert nar_of(data) == one.nar
    assert (found.narinfo.file_hash, found.narinfo.file_size) == (Hash.of(data), len(data))


class TestLimits:
    async def test_what_is_held_to_a_size_is_what_the_disk_has(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        """Files in chunks counted with the bytes that they have when they are sent."""
        same = [build(number) for number in range(6)]
        limit = 2 * len(same[0].file)
        upstream.serve(*same)
        async with mirrored(upstream.url, tmp_path) as world:
            world.limits = Limits(max_size=limit)
            for one in same:
                await kept_as_chunks(world, one)
            upstream.answers.clear()
            for one in same:
                assert await world.fetch(one) == one.nar

    async def test_the_longest_unused_goes_until_what_the_disk_has_is_within_the_limit(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        builds = [build(number, seed=number) for number in range(8)]
        upstream.serve(*builds)
        async with mirrored(upstream.url, tmp_path) as world:
            await world.fill(builds)
            limit = world.disk()["packs"] // 2
            world.limits = Limits(max_size=limit)
            await world.look()
            await world.forget_grace()
            await world.look()
            assert limit // 2 < world.disk().total() <= limit
            upstream.answers.clear()
            left = [one for one in builds if await world.fetch(one) is not None]
            assert left == builds[-len(left) :]
            assert len(left) >= 2

    async def test_no_more_goes_than_the_file_system_needs(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        """Bytes of packs are free a while after what was in them has gone: each look evicted as much again."""
        builds = [build(number, seed=number) for number in range(8)]
        upstream.serve(*builds)
        async with mirrored(upstream.url, tmp_path) as world:
            await world.fill(builds)
            await world.forget_grace()
            capacity, size = world.disk().total(), len(builds[0].file)
            world.free_bytes = lambda: capacity - world.disk().total()
            world.limits = Limits(min_free=2 * size)
            for _ in range(5):
                await world.look()
            upstream.answers.clear()
            left = [one for one in builds if await world.fetch(one) is not None]
            assert left == builds[-len(left) :]
            assert 3 <= len(left) <= 6
            await world.forget_grace()
            await world.look()
            assert world.free_bytes() >= 2 * size

    async def test_looks_ten_seconds_apart_evict_no_more_than_the_file_system_needs(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        """Packs that had been emptied at the last look were on the disk still, but not counted as leaving: all went."""
        builds = [build(number, seed=number) for number in range(8)]
        upstream.serve(*builds)
        async with mirrored(upstream.url, tmp_path) as world:
            await world.fill(builds)
            await world.forget_grace()
            capacity, size = world.disk().total(), len(builds[0].file)
            world.free_bytes = lambda: capacity - world.disk().total()
            world.limits = Limits(min_free=2 * size)
            for _ in range(6):
                await world.look()
                world.clock.later += 10.5
            assert world.free_bytes() >= 2 * size
            upstream.answers.clear()
            left = [one for one in builds if await world.fetch(one) is not None]
            assert left == builds[-len(left) :]
            assert 4 <= len(left) <= 6

    async def test_where_no_pack_can_be_written_anew_room_is_made_all_the_same(
        self, upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        builds = [build(number, seed=number) for number in range(4)]
        upstream.serve(*builds)
        async with mirrored(upstream.url, tmp_path) as world:
            await kept_as_chunks(world, *builds)

            async def full(*_: object) -> None:
                raise StorageFull("no room")

            monkeypatch.setattr(DiskSpool, "begin", full)
            world.limits = Limits(max_size=1)
            await world.look()
            await world.forget_grace()
            assert world.disk().total() == 0

    async def test_a_pack_that_cannot_be_opened_keeps_nothing_from_being_evicted_and_deleted(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        """Each look ended when such a pack was to be written anew, before the eviction: the disk filled up."""
        builds = [build(number, seed=number) for number in range(4)]
        upstream.serve(*builds)
        async with mirrored(upstream.url, tmp_path) as world:
            await kept_as_chunks(world, *builds)
            for pack in world.files("packs"):
                pack.unlink()
                pack.symlink_to(pack)
            world.limits = Limits(max_size=2 * len(builds[0].file))
            await world.look()
            world.limits = Limits(max_size=1)
            await world.look()
            await world.look()
            assert world.disk().total() == 0
            assert world.files("packs") == []

    async def test_eviction_waits_for_the_job_that_makes_chunks(self, upstream: FaultUpstream, tmp_path: Path) -> None:
        """It looked for a moment every ten seconds, while the job was at it nearly all the time: the disk filled up."""
        one = build(1)
        upstream.serve(one)
        async with mirrored(upstream.url, tmp_path) as world:
            await world.fetch(one)
            world.limits = Limits(max_size=1)
            collecting, looks = world.catalog.database.collecting, asyncio.Queue[None]()

            def noted(wait_seconds: float) -> AbstractAsyncContextManager[bool]:
                looks.put_nowait(None)
                return collecting(wait_seconds)

            async with collecting():
                housekeeping = asyncio.create_task(world.housekeeping(noted).run())
                await looks.get()
            try:

                async def is_evicted() -> bool:
                    return world.disk().total() == 0

                await until(is_evicted)
                assert looks.empty()
            finally:
                housekeeping.cancel()
                await asyncio.wait([housekeeping])

    async def test_a_switch_back_to_files_leaves_what_is_in_chunks_and_collects_it(
        self, upstream: FaultUpstream, tmp_path: Path
    ) -> None:
        one, other = build(1), build(2, seed=2)
        upstream.serve(one, other)
        async with mirrored(upstream.url, tmp_path) as world:
            await kept_as_chunks(world, one)
        async with mirrored(upstream.url, tmp_path, deduplicate="files") as world:
            await world.fetch(other)
            await world.make_chunks()
            assert await world.fetch(one) == one.nar
            assert world.disk()["whole"] == len(other.file)
            world.limits = Limits(max_size=1)
            await world.look()
            await world.forget_grace()
            assert world.disk().total() == 0
