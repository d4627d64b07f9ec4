"""URLs that a mirror has published go on to work for the month that clients remember them, whatever upstreams do."""

import lzma
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fault_upstream import COMPRESS, KEY, FaultUpstream, Package, package, signed
from mirror_chunks import build, mirrored
from mirrors import fetch, fetch_kept, mirror_of, settle
from msgspec.structs import replace

from harmonia_py.mirror.outcome import NoUpstreamAnswered
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl

OLD = package(1, size=100_000)


def built_anew(one: Package) -> Package:
    """The same store path with other contents, as a build gives that is not reproducible."""
    nar = b"anew" + one.nar[4:]
    info = replace(one.path_info, nar_hash=Hash.of(nar))
    return signed(replace(one, path_info=info, nar=nar, file=COMPRESS[one.compression](nar)), KEY)


def compressed_anew(one: Package, compression: str) -> Package:
    return replace(one, file=COMPRESS[compression](one.nar), compression=compression)


@pytest.fixture
async def second() -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream() as second:
        yield second


@pytest.mark.parametrize("keeps", [True, False])
@pytest.mark.parametrize("other", [built_anew(OLD), compressed_anew(OLD, "bzip2")], ids=["built", "compressed"])
async def test_of_two_upstreams_with_different_files_each_is_still_to_be_had(
    upstream: FaultUpstream, second: FaultUpstream, tmp_path: Path, *, other: Package, keeps: bool
) -> None:
    """Which of them is heard first is chance, and another one for each worker: a NAR of the other was not found."""
    upstream.serve(OLD)
    second.serve(other)
    async with mirror_of(upstream, second, priorities=(1, 2), directory=tmp_path if keeps else None) as mirror:
        assert await mirror.narinfo(OLD.hash_part) is not None
        assert await fetch(mirror, other) == other.file
        assert await fetch(mirror, OLD) == OLD.file
        await settle(mirror)
        assert await fetch(mirror, other) == other.file


@pytest.mark.parametrize("keeps", [True, False])
async def test_an_upstream_that_has_gone_over_to_zstd_leaves_no_xz_url_behind(
    upstream: FaultUpstream, tmp_path: Path, *, keeps: bool
) -> None:
    upstream.serve(compressed_anew(OLD, "zstd"))
    async with mirror_of(upstream, directory=tmp_path if keeps else None) as mirror:
        file = await fetch_kept(mirror, OLD)
        assert file is not None
        assert lzma.decompress(file) == OLD.nar
        assert await fetch(mirror, OLD) == file


@pytest.mark.parametrize("in_chunks", [False, True])
async def test_a_file_by_an_old_url_goes_after_an_hour_while_zstd_is_offered(
    upstream: FaultUpstream, tmp_path: Path, *, in_chunks: bool
) -> None:
    """No row named it: no limit counted it, and it stayed until the takeover of the next start."""
    new = build(1)
    old = compressed_anew(new, "xz")
    upstream.serve(new)
    async with mirrored(upstream.url, tmp_path) as world:
        assert await world.fetch(new) == new.nar
        if in_chunks:
            await world.make_chunks()
            await world.forget_grace()
        before, file = world.disk(), None
        for _ in range(2):
            file = await fetch_kept(world.mirror, old)
            assert file is not None
            assert lzma.decompress(file) == old.nar
            upstream.answers.clear()
        assert file is not None
        await world.look()
        assert world.disk() - before == {"whole": len(file)}
        await world.look(ahead=4000.0)
        assert world.disk() == before
        assert await world.fetch(new) == new.nar
        upstream.serve(new)
        assert await fetch_kept(world.mirror, old) == file


async def test_what_was_built_anew_is_fetched_where_the_old_is_remembered(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    """One worker has told a client of the new one, and another still remembers the old one."""
    upstream.serve(OLD)
    new = built_anew(OLD)
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        await fetch_kept(mirror, OLD)
        upstream.serve(new)
        assert await fetch_kept(mirror, new) == new.file
        assert await fetch(mirror, OLD) == OLD.file
        await upstream.stop()
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        for one in (OLD, new):
            assert await fetch(mirror, one) == one.file
        assert await mirror.narinfo(OLD.hash_part) is not None


async def test_a_nar_that_nobody_has_is_asked_for_once_in_a_while(upstream: FaultUpstream, tmp_path: Path) -> None:
    upstream.serve(OLD)
    wanted = NarUrl(OLD.hash_part, Hash.of(b""), "xz")
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        assert await mirror.narinfo(OLD.hash_part) is not None
        for _ in range(5):
            assert await fetch(mirror, wanted) is None
        assert len(upstream.requests) == 2
        await upstream.stop()
        with pytest.raises(NoUpstreamAnswered):
            await fetch(mirror, replace(wanted, nar_hash=Hash.of(b"x")))
        assert await mirror.narinfo(OLD.hash_part) is not None
