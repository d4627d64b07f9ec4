"""Trees that are hard on a server, through HTTP: every NAR as Nix dumps it, every listing as Nix reads it."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab
from server import Server, settings_of
from trees import File, Folder, Link, Tree, write
from watched import Raw, decompressed, random_file

from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import StorePath

# Where Nix's order by bytes differs from that of text, of locales, or of paths.
NAMES: Final = (
    b"a",
    b"a.b",
    b"a-b",
    b"a b",
    b"A",
    b"B",
    b"aa",
    b"a+",
    b"~",
    "é".encode(),
    "\U0001f600".encode(),
    b"\n",
)
NOT_TEXT: Final = (b"\xff", b"\xe9", b"a\xff", b"\xed\xb3\xbf", b"\xc0\x80")

TREES: Final[dict[str, Tree]] = {
    "empty-directory": Folder({}),
    "directories": Folder({b"a": Folder({b"b": Folder({})}), b"c": Folder({}), b"a.": Folder({b"x": File()})}),
    "empty-file": File(),
    "executable": File(b"#!/bin/sh\n", executable=True),
    "link": Link(b"/nowhere/\xff at all"),
    "links": Folder({b"dangles": Link(b"nowhere"), b"itself": Link(b"itself"), b"up": Link(b"../" * 100)}),
    "names": Folder({name: File(name, executable=len(name) == 1) for name in NAMES}),
    "directories-by-bytes": Folder({name: Folder({name: File(name)}) for name in NAMES}),
    "not-text": Folder({name: Folder({name: Link(name)}) for name in NOT_TEXT}),
    "long-names": Folder({b"x" * 255: File(b"x" * 4095), b"y" * 255: Link(b"z" * 4095)}),
    "padding": Folder({b"%d" % size: File(b"n" * size) for size in (*range(18), 65535, 65536, 65537, 262144)}),
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """One for all tests here: they add store paths, and change none."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        lab.start_daemon()
        yield lab


@pytest.fixture(scope="module")
def server(daemon: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings: dict[str, Any] = settings_of(daemon, daemon.secret_key("key-1")) | {"workers": 1}
    with Server(tmp_path_factory.mktemp("server"), daemon.env, settings) as server:
        yield server


def add(daemon: Lab, name: str, make: Callable[[Path], object]) -> StorePath:
    path = daemon.root / name
    make(path)
    return daemon.add(path)


def many_files(path: Path) -> None:
    for directory in range(20):
        (path / f"{directory}.d").mkdir(parents=True)
        for number in range(500):
            (path / f"{directory}.d" / f"{number}").write_bytes(b"n" * (number % 97))


def assert_as_nix_has_it(server: Server, daemon: Lab, path: StorePath, *, is_text: bool) -> None:
    nar = daemon.dump(path)
    answer = server.get(f"/{path.hash_part}.narinfo")
    assert answer.status == 200
    narinfo = dict(line.split(": ", 1) for line in answer.body.decode().splitlines())
    assert narinfo["NarHash"] == str(Hash.of(nar))
    assert int(narinfo["NarSize"]) == len(nar)
    target = f"/nar/{path.hash_part}.nar"
    assert server.get(target).body == nar
    first = server.get(f"/{narinfo['URL']}").body
    assert decompressed(first) == nar
    narinfo = dict(line.split(": ", 1) for line in server.get(f"/{path.hash_part}.narinfo").body.decode().splitlines())
    if "FileHash" in narinfo:  # known at once to whoever made the file, and to others a little later
        assert narinfo["FileHash"] == str(Hash.of(first))
        assert int(narinfo["FileSize"]) == len(first)
    assert server.get(f"/{narinfo['URL']}").body == first
    assert_ranges(server, target, nar)
    assert_ranges(server, f"/{narinfo['URL']}", first)
    listing = server.get(f"/{path.hash_part}.ls")
    assert listing.status == 200
    if is_text:
        assert json.loads(listing.body) == {"version": 1, "root": listing_of(daemon, path, nar)}


def listing_of(daemon: Lab, path: StorePath, nar: bytes) -> Any:
    file = daemon.root / f"{path}.nar"
    file.write_bytes(nar)
    return json.loads(daemon.nix("nar", "ls", "--json", "--recursive", str(file), "/"))


def assert_ranges(server: Server, target: str, data: bytes) -> None:
    with Raw(server.port) as client:
        for _ in range(20):
            first = random.randrange(len(data))
            last = random.randrange(first, len(data) + 10)
            client.ask(target, f"Range: bytes={first}-{last}")
            status, headers = client.head()
            assert status == 206
            assert headers["Content-Range"] == f"bytes {first}-{min(last, len(data) - 1)}/{len(data)}"
            assert client.body(headers) == data[first : last + 1]


@pytest.mark.parametrize("name", TREES)
def test_small_ones(server: Server, daemon: Lab, name: str) -> None:
    tree = TREES[name]
    path = add(daemon, name, lambda place: write(tree, place))
    assert_as_nix_has_it(server, daemon, path, is_text=name not in {"not-text", "link"})


def test_ten_thousand_files(server: Server, daemon: Lab) -> None:
    assert_as_nix_has_it(server, daemon, add(daemon, "many-files", many_files), is_text=True)


def test_files_of_some_megabytes(server: Server, daemon: Lab) -> None:
    def make(place: Path) -> None:
        place.mkdir()
        for number in range(3):
            random_file(place / f"{number}", 3_000_000 + number)

    assert_as_nix_has_it(server, daemon, add(daemon, "large", make), is_text=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_file_of_two_gigabytes(server: Server, daemon: Lab) -> None:
    """More than fits a signed number of 32 bits; its middle comes at once."""
    size = 2**31 + 12_345

    def make(place: Path) -> None:
        with place.open("wb") as file:
            file.truncate(size)
            for offset in (0, 2**30, 2**31 - 5, size - 1000):
                file.seek(offset)
                file.write(os.urandom(1000))

    path = add(daemon, "two-gigabytes", make)
    narinfo = dict(line.split(": ", 1) for line in server.get(f"/{path.hash_part}.narinfo").body.decode().splitlines())
    target = f"/nar/{path.hash_part}.nar"
    with Raw(server.port) as client:
        client.ask(target)
        assert str(client.body_hash(client.head()[1])) == narinfo["NarHash"]
        for offset in (2**30, 2**31 - 5, 2**31):
            client.ask(target, f"Range: bytes={offset + 96}-{offset + 1095}")
            status, headers = client.head()
            assert status == 206
            with daemon.real(path).open("rb") as file:
                file.seek(offset)
                assert client.body(headers) == file.read(1000)
    listing = json.loads(server.get(f"/{path.hash_part}.ls").body)
    assert listing["root"] == {"type": "regular", "size": size, "narOffset": 96}
