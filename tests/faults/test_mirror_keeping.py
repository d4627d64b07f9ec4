"""What a mirror has kept, when the disk takes nothing more, when something is evicted, and when upstreams collect."""

import contextlib
import subprocess
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import pytest
from catalogs import opened_catalog
from fault_upstream import KEY, FaultUpstream, Package, body, package, signed
from mirrors import fetch, fetch_kept, kept, leftovers, mirror_of, settle
from msgspec.structs import replace

from harmonia_py.catalog.caches import MIRROR, CacheSettings, Timestamp
from harmonia_py.catalog.collection import Scope
from harmonia_py.catalog.collector import Collector, make_room


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], check=False, capture_output=True)
    if done.returncode != 0:
        pytest.skip("this needs the right to mount")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def fill(disk: Path) -> None:
    with (disk / "others").open("wb", buffering=0) as others, contextlib.suppress(OSError):
        while others.write(bytes(4096)):
            pass


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", disk], check=True, timeout=10)


def with_references(one: Package, count: int) -> Package:
    references = tuple(sorted(package(1000 + number, size=2).path_info.store_path for number in range(count)))
    return signed(replace(one, path_info=replace(one.path_info, references=references)), KEY)


async def test_a_disk_that_becomes_read_only_still_gives_what_it_has(upstream: FaultUpstream, disk: Path) -> None:
    """Each attempt to keep something made the mirror leave the disk alone for a while, with all that was kept there."""
    one, other = package(1), package(2)
    upstream.serve(one, other)
    # While a file is open for writing, as that of the catalog is, its file system cannot be mounted read-only by hand.
    with mounted(disk / "mirror" / ".catalog"):
        await keep_read_only(upstream, disk, one, other)


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[None]:
    directory.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", directory], check=True, timeout=10)
    yield
    subprocess.run(["umount", directory], check=True, timeout=10)


async def keep_read_only(upstream: FaultUpstream, disk: Path, one: Package, other: Package) -> None:
    async with mirror_of(upstream, directory=disk / "mirror", narinfo_ttl=0.0) as mirror:
        await fetch_kept(mirror, one)
        remount(disk, "ro")
        assert await fetch(mirror, other) == other.file
        await upstream.stop()
        found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert found.origin.label == "stale"
        assert await fetch(mirror, one) == one.file
        remount(disk, "rw")


@pytest.mark.parametrize("references", [0, 60])
async def test_a_full_disk_never_costs_the_narinfo_that_was_there(
    upstream: FaultUpstream, disk: Path, references: int
) -> None:
    """It was removed before the new one was written: with it went all that could be served without the upstream.

    One that is long is not an attribute of its file, but beside it.
    """
    one = with_references(package(), references)
    upstream.serve(one)
    async with mirror_of(upstream, directory=disk / "mirror", narinfo_ttl=0.0) as mirror:
        await fetch_kept(mirror, one)
        fill(disk)
        assert await mirror.narinfo(one.hash_part) is not None
        await settle(mirror)
        assert len(kept(disk / "mirror")) == 1
    await upstream.stop()
    async with mirror_of(upstream, directory=disk / "mirror", narinfo_ttl=0.0) as mirror:
        found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert (found.origin.label, found.narinfo.path_info) == ("stale", one.path_info)
        assert await fetch(mirror, one) == one.file
        assert leftovers(disk / "mirror") == []


@pytest.mark.parametrize("keeps", [True, False])
async def test_when_a_nar_is_gone_its_narinfo_is_asked_for_again(
    upstream: FaultUpstream, tmp_path: Path, *, keeps: bool
) -> None:
    """For a day it was said to be there, because the upstream had said so before it collected it."""
    one = package()
    upstream.serve(one)
    async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
        assert await mirror.narinfo(one.hash_part) is not None
        upstream.answers.clear()
        assert await fetch(mirror, one) is None
        assert await mirror.narinfo(one.hash_part) is None


async def test_what_was_evicted_is_not_said_to_be_kept(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = package()
    upstream.serve(one)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        await fetch_kept(mirror, one)
        found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert found.origin.label == "kept"
        await evict_all(tmp_path)
        found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert found.origin.label == "upstream up0"


async def evict_all(directory: Path) -> None:
    """What another process does when there is no room at all."""
    now, scope = Timestamp(int(time.time()) + 1), Scope(cache=MIRROR, settings=CacheSettings(), deleted=False)

    async def delete(blob_keys: Sequence[str]) -> Collection[str]:
        for key in blob_keys:
            next((directory / "blobs").glob(f"*/{key}")).unlink()
        return ()

    async with opened_catalog("sqlite", directory / ".catalog") as catalog:
        collector = Collector(catalog.collection, catalog.garbage, delete)
        await make_room([(collector, scope)], 2**60, now)
        assert (await collector.remove(scope, now, now)).removed
        assert (await collector.empty_garbage(now)).deleted


async def test_what_was_deleted_by_hand_comes_again_when_it_is_asked_for(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    one = package()
    upstream.serve(one)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        await fetch_kept(mirror, one)
        (tmp_path / "blobs" / kept_at(tmp_path)).unlink()
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await fetch_kept(mirror, one) == one.file
        assert upstream.count("/nar/") == 2
        found = await mirror.narinfo(one.hash_part)
        assert found is not None
        assert found.origin.label == "kept"


def kept_at(directory: Path) -> Path:
    [path] = (directory / "blobs").glob("*/*")
    return path


async def test_a_file_size_of_nought_is_one_that_is_not_known(upstream: FaultUpstream, tmp_path: Path) -> None:
    one = package()
    upstream.serve(one)
    text = one.narinfo_text.replace(b"FileSize: %d\n" % len(one.file), b"FileSize: 0\n")
    upstream.answers[f"/{one.hash_part}.narinfo"] = body(text)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await fetch(mirror, one) == one.file


@pytest.mark.parametrize("years", [-30, -1, 1, 30])
async def test_a_clock_that_jumps_costs_a_question_and_no_more(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    one, other = package(1), package(2)
    upstream.serve(one, other)
    now = time.time
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        await fetch_kept(mirror, one)
        asked = upstream.count(".narinfo")
        monkeypatch.setattr(time, "time", lambda: now() + years * 31_557_600)
        for _ in range(3):
            assert await mirror.narinfo(one.hash_part) is not None
        assert upstream.count(".narinfo") == asked + 1
        assert await fetch_kept(mirror, other) == other.file
        monkeypatch.setattr(time, "time", now)
        await upstream.stop()
        for found in (one, other):
            answer = await mirror.narinfo(found.hash_part)
            assert answer is not None
            assert answer.origin.label in ("kept", "stale")
            assert await fetch(mirror, found) == found.file
