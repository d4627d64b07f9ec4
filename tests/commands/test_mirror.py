"""The verbs of a mirror: `mirror`, `explain`, and `verify` of what is mirrored, as processes."""

import asyncio
import json
import lzma
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import prefork
import pytest
import tomli_w
from fault_upstream import KEY, OTHER_KEY, STORE_DIR, FaultUpstream, Package, body, package, signed, status
from mirrors import kept
from msgspec.structs import replace
from trees import File, nar

from harmonia_py.config.key_files import write_secret_key
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey


class Verbs:
    """Runs verbs in front of an upstream."""

    def __init__(self, upstream: FaultUpstream, root: Path) -> None:
        self.directory = root / "cache"
        self.upstream = upstream
        self._root = root
        self._file = root / "harmonia.toml"
        self.configure()

    def configure(self, *, sign: bool = False, policy: Any = None, **mirror: Any) -> None:
        table = {"url": self.upstream.url, "name": "up", "public_keys": [str(KEY.public_key)]}
        settings: dict[str, Any] = {"daemon_socket": "/nowhere/socket", "real_nix_store": "/nowhere/store"}
        settings |= {"sign": sign, "state_directory": str(self._root / "state"), "policy": policy or {}}
        cache = {"directory": str(self.directory), "min_free": 0}
        self._file.write_text(tomli_w.dumps(settings | {"upstream": [table], "cache": cache, "mirror": mirror}))

    async def run(self, verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return await asyncio.to_thread(
            prefork.run, verb, "--config", str(self._file), *arguments, cwd=self._root, env=os.environ
        )


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
    assert (done.returncode, done.stderr.splitlines()[-1]) == (0, "4 store paths kept, 0 failed")
    assert len(kept(verbs.directory)) == 4
    asked = len(verbs.upstream.requests)
    assert (await verbs.run("mirror", "--closure", path)).returncode == 0
    assert len(verbs.upstream.requests) == asked


async def test_mirror_takes_a_list_of_paths_and_says_what_it_could_not_get(verbs: Verbs, tmp_path: Path) -> None:
    wanted = [package(number) for number in range(5)]
    verbs.upstream.serve(*wanted[:4])
    verbs.upstream.answers[f"/{wanted[3].path}"] = body(b"wrong")
    lines = "".join(f"{STORE_DIR}/{one.path_info.store_path}\n" for one in wanted)
    (tmp_path / "store-paths.xz").write_bytes(lzma.compress(lines.encode()))
    done = await verbs.run("mirror", "--store-paths", str(tmp_path / "store-paths.xz"))
    assert done.returncode == 1
    assert "3 store paths kept, 2 failed" in done.stderr
    assert f"{wanted[4].hash_part}: no upstream has it" in done.stderr


async def test_mirror_tells_programs_in_json(verbs: Verbs) -> None:
    there, absent = package(1), package(2)
    verbs.upstream.serve(there)
    done = await verbs.run("mirror", "--json", there.hash_part, absent.hash_part)
    assert done.returncode == 1
    failures = [f"{absent.hash_part}: no upstream has it"]
    assert json.loads(done.stdout) == {"kept": 1, "imported": None, "failures": failures}


async def test_mirror_refuses_what_is_no_list(verbs: Verbs, tmp_path: Path) -> None:
    for data in (b"\xff\xfe", b"nothing\n"):
        (tmp_path / "list").write_bytes(data)
        done = await verbs.run("mirror", "--store-paths", str(tmp_path / "list"))
        assert done.returncode == 1
        assert "error:" in done.stderr
    assert (await verbs.run("mirror")).returncode == 2


async def test_verify_finds_what_rotted_and_fetches_it_again(verbs: Verbs) -> None:
    one, other = package(1, size=100_000), package(2, compression="none")
    verbs.upstream.serve(one, other)
    assert (await verbs.run("mirror", one.hash_part, other.hash_part)).returncode == 0
    assert (await verbs.run("verify")).stdout == "2 kept files, 0 rotten and removed\n"
    for file in verbs.directory.glob("blobs/*/*.nar*"):
        with file.open("r+b") as stream:
            stream.seek(1000)
            stream.write(b"rot")
    done = await verbs.run("verify", "--json")
    assert done.returncode == 1
    assert [found["fetchedAgain"] for found in json.loads(done.stdout)["rotten"]] == [True, True]
    assert (await verbs.run("verify")).stdout == "2 kept files, 0 rotten and removed\n"
    # Without the upstream it is gone, and its narinfo with it.
    verbs.configure(offline=True)
    file = next(verbs.directory.glob("blobs/*/*.nar.xz"))
    file.write_bytes(b"rot")
    os.setxattr(file, "user.harmonia", b'{"size":3,"metadata":{"file_hash":"x"}}')
    assert (await verbs.run("verify")).returncode == 1
    assert not [name for name in kept(verbs.directory) if one.hash_part in name]


class TestExplain:
    async def test_what_would_be_served_and_why(self, verbs: Verbs) -> None:
        one = package()
        verbs.upstream.serve(one)
        done = await verbs.run("explain", f"{STORE_DIR}/{one.path_info.store_path}")
        assert done.returncode == 0
        assert f"upstream up: has {one.path_info.store_path} as xz, signed by upstream-1" in done.stdout
        assert "kept: nothing" in done.stdout
        assert "It would be served, not signed by us." in done.stdout
        await verbs.run("mirror", one.hash_part)
        assert "from upstream up" in (await verbs.run("explain", one.hash_part)).stdout

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
        assert done.returncode == 0
        assert f"proved by its content address {ca}, against which its NAR is held when it comes" in done.stdout
        not_signed = "It would be served, not signed by us: its content address is the proof"
        assert not_signed in done.stdout
        assert (await verbs.run("mirror", path)).returncode == 0
        verbs.upstream.answers.clear()
        done = await verbs.run("explain", path)
        assert "kept: nothing" not in done.stdout
        assert not_signed in done.stdout
        verbs.upstream.serve(replace(one, path_info=unknown))
        done = await verbs.run("explain", unknown.store_path)
        assert done.returncode == 1
        assert f"its content address is of a kind that cannot be verified here ({git})" in done.stdout

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
            assert done.returncode == 1
            assert words in done.stdout
            assert "It would not be served." in done.stdout

    async def test_a_path_that_the_policy_does_not_allow_would_not_be_served(self, verbs: Verbs) -> None:
        """It said "It would be served" of what every client got 404 for."""
        one = package()
        verbs.upstream.serve(one)
        for key, served in ((KEY, True), (OTHER_KEY, False)):
            verbs.configure(policy={"serve": "signed", "public_keys": [str(key.public_key)]})
            done = await verbs.run("explain", one.hash_part)
            assert done.returncode == (0 if served else 1)
            assert f"has {one.path_info.store_path} as xz" in done.stdout
            denied = 'It would not be served. The policy does not allow it (policy.serve = "signed").'
            assert (denied in done.stdout) != served

    async def test_the_key_that_is_made_at_the_first_start_signs(self, verbs: Verbs, tmp_path: Path) -> None:
        """It said "not signed by us" of what was."""
        one = package()
        verbs.upstream.serve(one)
        verbs.configure(sign=True)
        done = await verbs.run("explain", one.hash_part)
        assert "It would be served, signed by us with the key that the first start makes." in done.stdout
        assert not (tmp_path / "state").exists()
        write_secret_key(tmp_path / "state/secret-key", SecretKey.generate("made-1"))
        done = await verbs.run("explain", one.hash_part)
        assert "It would be served, signed by us with made-1." in done.stdout

    async def test_a_key_that_cannot_be_read_here_is_named(self, verbs: Verbs, tmp_path: Path) -> None:
        one = package()
        verbs.upstream.serve(one)
        verbs.configure(sign=True)
        (tmp_path / "state").mkdir()
        (tmp_path / "state/secret-key").write_text("no key")
        done = await verbs.run("explain", one.hash_part)
        assert "It would be served, signed by us if the server can read what cannot be read here" in done.stdout
        assert "secret-key: sign_key_paths: not a secret key of Nix" in done.stdout
