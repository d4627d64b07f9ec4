"""From what a mirror keeps into a store: a real directory, a real nix-daemon."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fault_upstream import COMPRESS, KEY, OTHER_KEY, STORE_DIR, FaultUpstream, Package, package, signed
from lab import Lab
from mirror_chunks import mirrored
from mirrors import fetch_kept, mirror_of, settle
from msgspec.structs import replace
from nar_source import storage_in
from trees import File, Folder, nar
from waiting import eventually

from harmonia_py.cache.source import Download
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.kept_files import key_of
from harmonia_py.mirror.import_metrics import ImportCounters
from harmonia_py.mirror.importing import Importing
from harmonia_py.mirror.mirror import Mirror
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.nar import string, strings
from harmonia_py.nix.path_info import sorted_references
from harmonia_py.nix.signing import SecretKey
from harmonia_py.storage.spool import DiskSpool
from harmonia_py.store.daemon.importing import DaemonWriter


@pytest.fixture
def lab(chroot_lab: Lab) -> Lab:
    """A store at `/nix/store` whose daemon trusts the upstream's key, and not the user who asks."""
    with (chroot_lab.root / "etc" / "nix.conf").open("a") as file:
        file.write(f"trusted-public-keys = {KEY.public_key}\ntrusted-users = nobody\n")
    chroot_lab.start_daemon()
    return chroot_lab


@asynccontextmanager
async def importing_of(
    lab: Lab, mirror: Mirror, directory: Path, *keys: SecretKey
) -> AsyncIterator[tuple[Importing, ImportCounters]]:
    """One with a view of the directory of its own, as each process has it."""

    async def made(key: BlobKey) -> Download | None:
        return await mirror._kept.made(await mirror._kept.find(key))

    writer = DaemonWriter(lab.socket, lab.store_dir)
    counters = ImportCounters()
    async with storage_in(directory) as storage:
        importing = Importing(
            storage, mirror.index, writer, made=made,
            store_dir=lab.store_dir, secret_keys=keys, counters=counters,
        )  # fmt: skip
        try:
            yield importing, counters
        finally:
            await importing.aclose()
            await writer.aclose()


@asynccontextmanager
async def importing_mirror(
    lab: Lab, upstream: FaultUpstream, directory: Path, **settings: Any
) -> AsyncIterator[tuple[Mirror, Importing, ImportCounters]]:
    """A mirror, and what imports all that it keeps."""
    async with (
        mirror_of(upstream, directory=directory, **settings) as mirror,
        importing_of(lab, mirror, directory) as (importing, counters),
    ):
        mirror.on_kept = importing.want
        yield mirror, importing, counters


def real_package(
    number: int,
    *references: Package,
    data: bytes | None = None,
    compression: str = "xz",
    itself: bool = False,
    key: SecretKey | None = KEY,
) -> Package:
    """A path whose NAR is one."""
    data = data or nar(Folder({b"file": File(f"{number}".encode() * 100_000)}))
    made = package(number, nar=data, compression=compression)
    info = made.path_info
    named = [one.path_info.store_path for one in references] + ([info.store_path] if itself else [])
    return signed(replace(made, path_info=replace(info, references=sorted_references(named))), key)


def valid(lab: Lab, *packages: Package) -> list[bool]:
    return [lab.is_valid(one.path_info.store_path) for one in packages]


@pytest.mark.parametrize("compression", ["xz", "zstd", "none", "br"])
async def test_what_is_kept_is_imported_in_the_order_that_the_store_wants(
    lab: Lab, upstream: FaultUpstream, tmp_path: Path, compression: str
) -> None:
    first = real_package(1, compression=compression)
    second = real_package(2, first, compression=compression, itself=True)
    third = real_package(3, first, second, compression=compression)
    upstream.serve(first, second, third)
    async with importing_mirror(lab, upstream, tmp_path / "kept") as (mirror, importing, counters):
        for one in (third, second):
            await fetch_kept(mirror, one)
            await importing.idle()
        assert valid(lab, first, second, third) == [False, False, False]
        assert counters.queued.value == 2
        await fetch_kept(mirror, first)
        await importing.idle()
        assert valid(lab, first, second, third) == [True, True, True]
        assert counters.imported.value == 3
        assert counters.queued.value == 0
        for one in (first, second, third):
            assert lab.dump(one.path_info.store_path) == one.nar
        assert len(lab.connections()) == 1


async def test_what_is_in_chunks_is_imported(lab: Lab, upstream: FaultUpstream, tmp_path: Path) -> None:
    """There was no file to import, and the path waited for ever."""
    one = real_package(1, compression="zstd")
    upstream.serve(one)
    async with mirrored(upstream.url, tmp_path / "kept") as world:
        assert await world.fetch(one) == one.nar
        await world.make_chunks()
        await world.forget_grace()
        assert world.disk()["whole"] == 0
        async with importing_of(lab, world.mirror, tmp_path / "kept") as (importing, counters):
            importing.want(one.hash_part)
            await importing.idle()
    assert counters.imported.value == 1
    assert lab.dump(one.path_info.store_path) == one.nar


async def test_what_was_kept_before_anybody_wanted_it_is_imported_when_it_is_asked_for(
    lab: Lab, upstream: FaultUpstream, tmp_path: Path
) -> None:
    first = real_package(1)
    second = real_package(2, first)
    upstream.serve(first, second)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        for one in (first, second):
            await fetch_kept(mirror, one)
    async with importing_mirror(lab, upstream, tmp_path / "kept", offline=True) as (mirror, importing, _):
        await fetch_kept(mirror, second)
        await importing.idle()
        # What it refers to is kept as well, and comes first.
        assert valid(lab, first, second) == [True, True]


async def test_a_file_that_has_rotted_is_never_imported(
    lab: Lab, upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store does not even see the end of it; what else there is is imported."""
    rotten, good = real_package(1, compression="none"), real_package(2)
    upstream.serve(rotten, good)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        for one in (rotten, good):
            await fetch_kept(mirror, one)
        [file] = (tmp_path / "kept").rglob(f"{key_of(rotten.our_url)}")
        with file.open("r+b") as stream:
            stream.seek(50_000)
            stream.write(b"x")
        os.utime(file, (1, 1))  # a disk that rots leaves the time as it was
        async with importing_of(lab, mirror, tmp_path / "kept") as (importing, counters):
            for one in (rotten, good):
                importing.want(one.hash_part)
            await importing.idle()
            assert valid(lab, rotten, good) == [False, True]
            assert (counters.failed.value, counters.imported.value) == (1, 1)
    assert "NarHash" in caplog.text or "FileHash" in caplog.text


def deep(levels: int) -> bytes:
    entry = strings(b"entry", b"(", b"name", b"a", b"node")
    inside = strings(b"(", b"type", b"regular", b"contents", b"", b")")
    for _ in range(levels):
        inside = strings(b"(", b"type", b"directory") + entry + inside + strings(b")", b")")
    return string(b"nix-archive-1") + inside


def twice_the_same_name() -> bytes:
    """A link, and under its name a directory: what Nix 2.24 writes leaves the store (CVE-2024-45593)."""
    head = strings(b"entry", b"(", b"name", b"a", b"node")
    link = strings(b"(", b"type", b"symlink", b"target", b"/tmp", b")", b")")
    folder = strings(b"(", b"type", b"directory", b")", b")")
    return string(b"nix-archive-1") + strings(b"(", b"type", b"directory") + head + link + head + folder + string(b")")


@pytest.mark.parametrize(
    "data",
    [deep(100), twice_the_same_name(), b"no archive at all" * 100],
    ids=["too deep", "twice the same name", "no archive"],
)
async def test_an_archive_that_could_harm_an_old_nix_stays_outside_though_a_trusted_key_signed_it(
    lab: Lab, upstream: FaultUpstream, tmp_path: Path, data: bytes
) -> None:
    hostile = real_package(1, data=data)
    upstream.serve(hostile)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        await fetch_kept(mirror, hostile)
        async with importing_of(lab, mirror, tmp_path / "kept") as (importing, counters):
            importing.want(hostile.hash_part)
            await importing.idle()
            assert counters.failed.value == 1
    assert not lab.real(hostile.path_info.store_path).exists()


@pytest.mark.parametrize(("method", "signed_by_us"), [(Method.NAR, True), (Method.TEXT, False), (Method.FLAT, False)])
async def test_a_content_addressed_path_that_nobody_signed_is_imported(
    lab: Lab, upstream: FaultUpstream, *, tmp_path: Path, method: Method, signed_by_us: bool
) -> None:
    """Our signature is not given away where only the contents show that the NarHash is right."""
    contents = b"content-addressed"
    data = nar(File(contents))
    ca = ContentAddress(method, Hash.of(data if method is Method.NAR else contents))
    info = replace(package(1, nar=data).path_info, store_path=ca.store_path("itself", (), STORE_DIR), ca=ca)
    unsigned = signed(replace(package(1, nar=data), path_info=info, file=COMPRESS["xz"](data)), None)
    upstream.serve(unsigned)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        await fetch_kept(mirror, unsigned)
        async with importing_of(lab, mirror, tmp_path / "kept", SecretKey.generate("ours-1")) as (importing, _):
            importing.want(unsigned.hash_part)
            await importing.idle()
    assert valid(lab, unsigned) == [True]
    path = lab.full(info.store_path)
    told = lab.path_infos(path)[path]
    assert told["ca"] == str(ca)
    assert len(told.get("signatures", [])) == signed_by_us


async def test_of_keys_that_the_daemon_does_not_trust_it_is_asked_once(
    chroot_lab: Lab, upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And what else is signed by one that it trusts is imported."""
    ours = SecretKey.generate("ours-1")
    with (chroot_lab.root / "etc" / "nix.conf").open("a") as file:
        file.write(f"trusted-public-keys = {OTHER_KEY.public_key}\n")
    chroot_lab.start_daemon()
    packages = [real_package(number) for number in range(1, 5)]
    message = packages[3].path_info.fingerprint(STORE_DIR)
    both = (*packages[3].path_info.signatures, OTHER_KEY.sign(message))
    packages[3] = replace(packages[3], path_info=replace(packages[3].path_info, signatures=tuple(sorted(both))))
    upstream.serve(*packages)
    caplog.set_level(logging.WARNING)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        for one in packages:
            await fetch_kept(mirror, one)
        async with importing_of(chroot_lab, mirror, tmp_path / "kept", ours) as (importing, counters):
            for one in packages:
                importing.want(one.hash_part)
            await importing.idle()
            assert (counters.untrusted.value, counters.imported.value) == (3, 1)
    assert valid(chroot_lab, *packages) == [False, False, False, True]
    assert caplog.text.count("trusted-public-keys") == 1
    assert "ours-1, upstream-1" in caplog.text


async def test_of_two_processes_one_imports(lab: Lab, upstream: FaultUpstream, tmp_path: Path) -> None:
    packages = [real_package(number) for number in range(1, 6)]
    upstream.serve(*packages)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        for one in packages:
            await fetch_kept(mirror, one)
        async with (
            importing_of(lab, mirror, tmp_path / "kept") as (one_process, one_counts),
            importing_of(lab, mirror, tmp_path / "kept") as (another, other_counts),
        ):
            for one in packages:
                one_process.want(one.hash_part)
                another.want(one.hash_part)
            await one_process.idle()
            await another.idle()
            await eventually(lambda: all(valid(lab, *packages)))
            assert one_counts.imported.value + other_counts.imported.value == len(packages)
            assert one_counts.failed.value + other_counts.failed.value == 0


async def test_what_another_process_is_at_is_left_to_it(lab: Lab, upstream: FaultUpstream, tmp_path: Path) -> None:
    one = real_package(1)
    upstream.serve(one)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        await fetch_kept(mirror, one)
        async with DiskSpool(tmp_path / "kept") as elsewhere:
            claim = await elsewhere.begin(BlobKey(f"{one.hash_part}.import"), 0)
            assert claim is not None
            async with importing_of(lab, mirror, tmp_path / "kept") as (importing, counters):
                importing.want(one.hash_part)
                await importing.idle()
                assert valid(lab, one) == [False]
                assert counters.failed.value == 0
            claim.close()
    assert not [path for path in (tmp_path / "kept").rglob("*.import*") if path.is_file()]


async def test_a_daemon_that_is_away_is_waited_for(
    lab: Lab, upstream: FaultUpstream, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    packages = [real_package(number) for number in range(1, 4)]
    upstream.serve(*packages)
    lab.stop_daemon()
    async with importing_mirror(lab, upstream, tmp_path / "kept") as (mirror, importing, counters):
        for one in packages:
            await fetch_kept(mirror, one)
        await importing.idle()
        assert counters.queued.value == 3
        lab.start_daemon(awaited=True)
        await eventually(lambda: counters.imported.value == 3)
    assert all(valid(lab, *packages))
    assert caplog.text.count("for now") == 1


async def test_what_is_evicted_or_was_never_kept_is_nobodys_business(
    lab: Lab, upstream: FaultUpstream, tmp_path: Path
) -> None:
    evicted, unknown = real_package(1), real_package(2)
    upstream.serve(evicted)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        await fetch_kept(mirror, evicted)
        async with importing_of(lab, mirror, tmp_path / "kept") as (importing, counters):
            await mirror._kept.forget(key_of(evicted.our_url))
            importing.want(evicted.hash_part)
            importing.want(unknown.hash_part)
            await importing.idle()
            assert counters.queued.value == 0
            assert counters.failed.value == 0


async def test_a_file_that_is_re_coded_meanwhile_is_imported_all_the_same(
    lab: Lab, upstream: FaultUpstream, tmp_path: Path
) -> None:
    packages = [real_package(number) for number in range(1, 6)]
    upstream.serve(*packages)
    async with importing_mirror(lab, upstream, tmp_path / "kept", recode=True) as (mirror, _, counters):
        await asyncio.gather(*[fetch_kept(mirror, one) for one in packages])
        await settle(mirror)
        await eventually(lambda: counters.imported.value == len(packages))
    assert all(valid(lab, *packages))


async def test_giving_up_midway_leaves_nothing_behind(lab: Lab, upstream: FaultUpstream, tmp_path: Path) -> None:
    large = real_package(1, data=nar(File(bytes(100_000_000))), compression="zstd")
    upstream.serve(large)
    async with mirror_of(upstream, directory=tmp_path / "kept") as mirror:
        await fetch_kept(mirror, large)
        async with importing_of(lab, mirror, tmp_path / "kept") as (importing, _):
            importing.want(large.hash_part)
            await eventually(lambda: lab.real(large.path_info.store_path).exists())
    assert valid(lab, large) == [False]
    assert list((tmp_path / "kept" / "growing").iterdir()) == []
    # What the daemon had begun to write is garbage.
    lab.nix_store("--gc")
    assert not lab.real(large.path_info.store_path).exists()
