"""What a mirror has kept, when the disk takes nothing more, when something is evicted, and when upstreams collect."""

import contextlib
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fault_upstream import KEY, FaultUpstream, Package, body, package, signed
from mirrors import fetch, fetch_kept, kept, leftovers, mirror_of, settle


@pytest.fixture
async def upstream() -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream() as upstream:
        yield upstream


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
    async with mirror_of(upstream, directory=disk / "mirror", narinfo_ttl=0.0) as mirror:
        await fetch_kept(mirror, one)
        remount(disk, "ro")
        assert await fetch(mirror, other) == other.file
        await upstream.stop()
        narinfo = await mirror.narinfo(one.hash_part)
        assert narinfo is not None
        assert narinfo.origin == "stale"
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
        assert len(kept(disk / "mirror")) == 2
    await upstream.stop()
    async with mirror_of(upstream, directory=disk / "mirror", narinfo_ttl=0.0) as mirror:
        narinfo = await mirror.narinfo(one.hash_part)
        assert narinfo is not None
        assert (narinfo.origin, narinfo.path_info) == ("stale", one.path_info)
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


async def test_what_was_evicted_is_not_said_to_be_kept(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = package()
    upstream.serve(one)
    monkeypatch.setattr("harmonia_py.cache.remembered._LOOK_KEPT_SECONDS", 0.0)
    monkeypatch.setattr("harmonia_py.cache.kept._FACTS_SECONDS", 0.0)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        await fetch_kept(mirror, one)
        narinfo = await mirror.narinfo(one.hash_part)
        assert narinfo is not None
        assert narinfo.origin == "kept"
        for file in (tmp_path / "blobs").glob("*/*"):
            file.unlink()
        narinfo = await mirror.narinfo(one.hash_part)
        assert narinfo is not None
        assert narinfo.origin == "upstream up0"


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
            narinfo = await mirror.narinfo(found.hash_part)
            assert narinfo is not None
            assert narinfo.origin in ("kept", "stale")
            assert await fetch(mirror, found) == found.file
