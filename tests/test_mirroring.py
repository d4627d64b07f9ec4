"""The verbs of a mirror: `mirror`, `explain`, and `verify` of what is mirrored, as processes."""

import asyncio
import json
import lzma
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from fault_upstream import KEY, OTHER_KEY, STORE_DIR, FaultUpstream, Package, body, package, signed, status
from mirrors import kept
from trees import File, nar

import harmonia_py
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str


class Verbs:
    """Runs verbs in front of an upstream."""

    def __init__(self, upstream: FaultUpstream, root: Path) -> None:
        self.directory = root / "cache"
        self.upstream = upstream
        self._root = root
        self._file = root / "harmonia.toml"
        self.configure()

    def configure(self, **mirror: Any) -> None:
        table = {"url": self.upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}
        nowhere = {"daemon_socket": "/nowhere/socket", "real_nix_store": "/nowhere/store"}
        cache = {"directory": str(self.directory), "min_free": 0}
        self._file.write_text(tomli_w.dumps(nowhere | {"upstream": [table], "cache": cache, "mirror": mirror}))

    async def run(self, verb: str, *arguments: str) -> Done:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "harmonia_py.cli", verb, "--config", str(self._file), *arguments),
            env=dict(os.environ) | {"PYTHONPATH": str(Path(harmonia_py.__file__).parent.parent)},
            cwd=self._root,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Done(process.returncode, out.decode(), err.decode())


@pytest.fixture
async def verbs(tmp_path: Path) -> AsyncIterator[Verbs]:
    async with FaultUpstream() as upstream:
        yield Verbs(upstream, tmp_path)


def refers_to(one: Package, *others: Package) -> Package:
    references = tuple(sorted(other.path_info.store_path for other in others))
    return signed(replace(one, path_info=replace(one.path_info, references=references)), KEY)


async def test_mirror_fetches_a_closure_and_the_second_time_nothing(verbs: Verbs) -> None:
    leaves = [package(number) for number in range(1, 4)]
    top = refers_to(package(0), *leaves)
    verbs.upstream.serve(top, *leaves)
    path = f"{STORE_DIR}/{top.path_info.store_path}"
    done = await verbs.run("mirror", "--closure", path)
    assert (done.status, done.err.splitlines()[-1]) == (0, "4 store paths kept, 0 failed")
    assert len(kept(verbs.directory)) == 8
    asked = len(verbs.upstream.requests)
    assert (await verbs.run("mirror", "--closure", path)).status == 0
    assert len(verbs.upstream.requests) == asked


async def test_mirror_takes_a_list_of_paths_and_says_what_it_could_not_get(verbs: Verbs, tmp_path: Path) -> None:
    wanted = [package(number) for number in range(5)]
    verbs.upstream.serve(*wanted[:4])
    verbs.upstream.answers[f"/{wanted[3].path}"] = body(b"wrong")
    lines = "".join(f"{STORE_DIR}/{one.path_info.store_path}\n" for one in wanted)
    (tmp_path / "store-paths.xz").write_bytes(lzma.compress(lines.encode()))
    done = await verbs.run("mirror", "--store-paths", str(tmp_path / "store-paths.xz"))
    assert done.status == 1
    assert "3 store paths kept, 2 failed" in done.err
    assert f"{wanted[4].hash_part}: no upstream has it" in done.err


async def test_mirror_refuses_what_is_no_list(verbs: Verbs, tmp_path: Path) -> None:
    for data in (b"\xff\xfe", b"nothing\n"):
        (tmp_path / "list").write_bytes(data)
        done = await verbs.run("mirror", "--store-paths", str(tmp_path / "list"))
        assert done.status == 1
        assert "error:" in done.err
    assert (await verbs.run("mirror")).status == 2


async def test_verify_finds_what_rotted_and_fetches_it_again(verbs: Verbs) -> None:
    one, other = package(1, size=100_000), package(2, compression="none")
    verbs.upstream.serve(one, other)
    assert (await verbs.run("mirror", one.hash_part, other.hash_part)).status == 0
    assert (await verbs.run("verify")).out == "2 kept files, 0 rotten and removed\n"
    for file in verbs.directory.glob("blobs/*/*.nar*"):
        with file.open("r+b") as stream:
            stream.seek(1000)
            stream.write(b"rot")
    done = await verbs.run("verify", "--json")
    assert done.status == 1
    assert [found["fetchedAgain"] for found in json.loads(done.out)["rotten"]] == [True, True]
    assert (await verbs.run("verify")).out == "2 kept files, 0 rotten and removed\n"
    # Without the upstream it is gone, and its narinfo with it.
    verbs.configure(offline=True)
    file = next(verbs.directory.glob("blobs/*/*.nar.xz"))
    file.write_bytes(b"rot")
    os.setxattr(file, "user.harmonia", b'{"size":3,"metadata":{"file_hash":"x"}}')
    assert (await verbs.run("verify")).status == 1
    assert not [name for name in kept(verbs.directory) if one.hash_part in name]


class TestExplain:
    async def test_what_would_be_served_and_why(self, verbs: Verbs) -> None:
        one = package()
        verbs.upstream.serve(one)
        done = await verbs.run("explain", f"{STORE_DIR}/{one.path_info.store_path}")
        assert done.status == 0
        assert f"upstream up: has {one.path_info.store_path} as xz, signed by upstream-1" in done.out
        assert "kept: nothing" in done.out
        assert "It would be served, not signed by us." in done.out
        await verbs.run("mirror", one.hash_part)
        assert "from upstream up" in (await verbs.run("explain", one.hash_part)).out

    async def test_an_unsigned_path_is_served_for_its_contents(self, verbs: Verbs) -> None:
        contents = b"hello"
        data = nar(File(contents))
        ca = ContentAddress(Method.TEXT, Hash.of(contents))
        path = ca.store_path("hello", [], STORE_DIR)
        info = PathInfo(store_path=path, nar_hash=Hash.of(data), nar_size=len(data), ca=ca)
        git = ContentAddress(Method.GIT, Hash.of(contents))
        unknown = replace(info, ca=git, store_path=git.store_path("hello", [], STORE_DIR))
        one = package(nar=data, key=None)
        verbs.upstream.serve(replace(one, path_info=info), replace(one, path_info=unknown))
        done = await verbs.run("explain", path)
        assert done.status == 0
        assert f"proved by its content address {ca}, against which its NAR is held when it comes" in done.out
        not_signed = "It would be served, not signed by us: its content address is the proof"
        assert not_signed in done.out
        assert (await verbs.run("mirror", path)).status == 0
        verbs.upstream.answers.clear()
        done = await verbs.run("explain", path)
        assert "kept: nothing" not in done.out
        assert not_signed in done.out
        verbs.upstream.serve(replace(one, path_info=unknown))
        done = await verbs.run("explain", unknown.store_path)
        assert done.status == 1
        assert f"its content address is of a kind that cannot be verified here ({git})" in done.out

    async def test_what_would_not_and_why_not(self, verbs: Verbs) -> None:
        stranger, wrong, gone, ill, other_store = (package(number) for number in range(5))
        verbs.upstream.serve(signed(stranger, OTHER_KEY))
        verbs.upstream.answers[f"/{wrong.hash_part}.narinfo"] = body(package(9).narinfo_text)
        verbs.upstream.answers[f"/{ill.hash_part}.narinfo"] = status(503)
        text = other_store.narinfo_text.replace(b"/nix/store", b"/gnu/store")
        verbs.upstream.answers[f"/{other_store.hash_part}.narinfo"] = body(text)
        for one, words in (
            (stranger, "it is signed by other-1 (trusted keys: upstream-1)"),
            (wrong, "is that of another path"),
            (gone, "says that it does not have it"),
            (ill, "cannot tell: it answered 503"),
            (other_store, "the store directory is /nix/store"),
        ):
            done = await verbs.run("explain", one.hash_part)
            assert done.status == 1
            assert words in done.out
            assert "It would not be served." in done.out
