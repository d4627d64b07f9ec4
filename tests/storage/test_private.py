"""Kept files are their owner's alone, whatever the umask; what root makes belongs to the owner of the directory."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_upstream import FaultUpstream, package
from mirrors import fetch_kept, mirror_of


@pytest.fixture(autouse=True)
def ordinary_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


async def keep_one(directory: Path) -> None:
    async with FaultUpstream() as upstream:
        one = package(size=500_000, compression="zstd")
        upstream.serve(one)
        async with mirror_of(upstream, directory=directory) as mirror:
            assert await fetch_kept(mirror, one) == one.file


def all_below(directory: Path) -> list[Path]:
    return list(directory.rglob("*"))


async def test_other_users_read_no_kept_file(tmp_path: Path) -> None:
    """Without the unit's umask, NARs that a token protects were files that every user of the machine could read."""
    await keep_one(tmp_path / "cache")
    made = all_below(tmp_path / "cache")
    assert any(path.is_file() for path in made)
    assert {path.stat().st_mode & 0o777 for path in made if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache", *made) if path.is_dir()} == {0o700}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
async def test_what_root_makes_belongs_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    os.chown(directory, 1234, 4321)
    await keep_one(directory)
    # The catalog is given away by the server that opens it, and here by none.
    made = [path for path in all_below(directory) if ".catalog" not in path.parts]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(1234, 4321)}
