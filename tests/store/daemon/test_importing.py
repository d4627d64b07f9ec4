"""Paths into a real store, by a real nix-daemon; and a daemon that misbehaves while they come."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import cast

import pytest
import uvloop
from lab import Keys, Lab
from msgspec.structs import replace
from peer import LAST, Peer, hang, refusal, shake_hands

from harmonia_py.cache.store_writer import SignatureRefused
from harmonia_py.errors import DaemonProtocolError, DaemonRefused, DaemonUnreachable, FormatError
from harmonia_py.nix.content_address import ContentAddress, Method
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.signing import SecretKey
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.store.daemon import importing
from harmonia_py.store.daemon.importing import DaemonWriter

STORE_DIR = StoreDir.parse("/nix/store")
MEGABYTE = bytes(1024 * 1024)
LIMIT = 30.0


@pytest.fixture
def keys(lab: Lab) -> Keys:
    """Those that the daemon trusts; it does not trust the user who asks."""
    keys = lab.secret_key("trusted-1")
    with (lab.root / "etc" / "nix.conf").open("a") as file:
        file.write(f"trusted-public-keys = {keys.public}\ntrusted-users = nobody\n")
    return keys


@pytest.fixture
async def writer(lab: Lab, keys: Keys) -> AsyncIterator[DaemonWriter]:
    assert keys
    lab.start_daemon()
    writer = DaemonWriter(lab.socket, lab.store_dir)
    yield writer
    await writer.aclose()


async def portions(*data: bytes) -> AsyncIterator[bytes]:
    for portion in data:
        yield portion


def new_path(lab: Lab, directory: Path, *keys: Keys, references: tuple[StorePath, ...] = ()) -> tuple[PathInfo, bytes]:
    """A path that is not in the store, with its NAR of some megabytes."""
    directory.mkdir()
    (directory / "file").write_bytes(b"0123456789abcdef" * 200_000)
    nar = lab.run("nix-store", "--dump", str(directory)).stdout
    store_path = StorePath.parse("7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-new")
    info = PathInfo(store_path=store_path, nar_hash=Hash.of(nar), nar_size=len(nar), references=references)
    return signed(info, lab, *keys), nar


def signed(info: PathInfo, lab: Lab, *keys: Keys) -> PathInfo:
    message = info.fingerprint(lab.store_dir)
    made = [SecretKey.parse(key.secret_file.read_text().strip()).sign(message) for key in keys]
    return replace(info, signatures=tuple(made))


def cut(nar: bytes, size: int) -> Iterator[bytes]:
    return (nar[start : start + size] for start in range(0, len(nar), size))


@pytest.mark.parametrize("size", [1, 8 * 1024, 10_000_000])
async def test_a_signed_path_is_added_in_portions_of_any_size(
    lab: Lab, writer: DaemonWriter, keys: Keys, tmp_path: Path, size: int
) -> None:
    info, nar = new_path(lab, tmp_path / "new", keys, references=(lab.closure.top,))
    if size == 1:  # a NAR of megabytes would take as many frames
        start = nar[:5000]
        await writer.add(info, portions(*cut(start, 1), nar[5000:]))
    else:
        await writer.add(info, portions(*cut(nar, size)))
    assert lab.dump(info.store_path) == nar
    told = lab.path_infos(lab.full(info.store_path))[lab.full(info.store_path)]
    assert told["references"] == [lab.full(lab.closure.top)]
    assert told["signatures"] == [str(info.signatures[0])]
    assert await writer.missing([info.store_path, lab.closure.top]) == set()


async def test_what_nobody_trusted_has_signed_is_refused_and_the_next_path_is_not(
    lab: Lab, writer: DaemonWriter, keys: Keys, tmp_path: Path
) -> None:
    info, nar = new_path(lab, tmp_path / "new", lab.secret_key("other-1"))
    with pytest.raises(SignatureRefused):
        await writer.add(info, portions(nar))
    with pytest.raises(SignatureRefused):
        await writer.add(replace(info, signatures=()), portions(*cut(nar, 65536)))
    assert await writer.missing([info.store_path]) == {info.store_path}
    await writer.add(signed(info, lab, keys), portions(nar))
    assert len(lab.connections()) == 1


async def test_a_content_addressed_path_needs_no_signature(lab: Lab, writer: DaemonWriter, tmp_path: Path) -> None:
    info, nar = new_path(lab, tmp_path / "new")
    ca = ContentAddress(Method.NAR, info.nar_hash)
    info = replace(info, ca=ca, store_path=ca.store_path("new", (), lab.store_dir))
    await writer.add(info, portions(nar))
    assert lab.dump(info.store_path) == nar


async def test_a_path_that_is_there_already_is_no_error(lab: Lab, writer: DaemonWriter, keys: Keys) -> None:
    top = lab.closure.top
    nar = lab.dump(top)
    told = lab.path_infos(lab.full(top))[lab.full(top)]
    references = tuple(sorted(lab.store_dir.parse_path(path) for path in told["references"]))
    info = PathInfo(store_path=top, nar_hash=Hash.of(nar), nar_size=len(nar), references=references)
    await writer.add(signed(info, lab, keys), portions(nar))


async def test_a_path_that_refers_to_what_is_not_there_is_refused(
    lab: Lab, writer: DaemonWriter, keys: Keys, tmp_path: Path
) -> None:
    nowhere = StorePath.parse("0000000000000000000000000000000z-nowhere")
    info, nar = new_path(lab, tmp_path / "new", keys, references=(nowhere,))
    assert await writer.missing([nowhere, lab.closure.top]) == {nowhere}
    with pytest.raises(DaemonRefused, match="is not valid"):
        await writer.add(info, portions(nar))
    assert not lab.is_valid(info.store_path)


@pytest.mark.parametrize("wrong", ["a byte", "too short", "no end"])
async def test_what_is_not_the_nar_that_was_said_never_becomes_valid(
    lab: Lab, writer: DaemonWriter, keys: Keys, *, tmp_path: Path, wrong: str
) -> None:
    info, nar = new_path(lab, tmp_path / "new", keys)
    data = {"a byte": nar.replace(b"0123", b"0124", 1), "too short": nar[:-8], "no end": nar[:1000]}[wrong]
    with pytest.raises(DaemonRefused):
        await writer.add(info, portions(data))
    assert not lab.is_valid(info.store_path)
    await writer.add(info, portions(nar))
    assert lab.dump(info.store_path) == nar


async def test_a_nar_that_proves_wrong_midway_is_given_up_and_the_next_one_is_added(
    lab: Lab, writer: DaemonWriter, keys: Keys, tmp_path: Path
) -> None:
    info, nar = new_path(lab, tmp_path / "new", keys)

    async def rotten() -> AsyncIterator[bytes]:
        for portion in cut(nar[:2_000_000], 65536):
            yield portion
        raise FormatError("its NAR has another NarHash")

    with pytest.raises(FormatError):
        await writer.add(info, rotten())
    assert not lab.is_valid(info.store_path)
    await writer.add(info, portions(nar))
    assert lab.dump(info.store_path) == nar


async def test_an_import_that_is_cancelled_leaves_nothing_valid(
    lab: Lab, writer: DaemonWriter, keys: Keys, tmp_path: Path
) -> None:
    info, nar = new_path(lab, tmp_path / "new", keys)
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield nar[:1_000_000]
        begun.set()
        await asyncio.Event().wait()

    adding = asyncio.create_task(writer.add(info, endless()))
    await begun.wait()
    adding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await adding
    await writer.add(info, portions(nar))
    assert lab.is_valid(info.store_path)


@pytest.mark.parametrize("connections", [True, False])
async def test_a_restart_of_the_daemon_between_paths_is_not_noticed(
    lab: Lab, writer: DaemonWriter, *, connections: bool
) -> None:
    top = lab.closure.top
    assert await writer.missing([top]) == set()
    lab.stop_daemon(connections=connections)
    lab.start_daemon()
    assert await writer.missing([top]) == set()


async def test_a_daemon_that_dies_midway_is_an_error_at_once(
    lab: Lab, writer: DaemonWriter, keys: Keys, tmp_path: Path
) -> None:
    info, nar = new_path(lab, tmp_path / "new", keys)

    async def interrupted() -> AsyncIterator[bytes]:
        for number, portion in enumerate(cut(nar, 65536)):
            if number == 10:
                lab.stop_daemon()
            yield portion

    async with asyncio.timeout(LIMIT):
        with pytest.raises(DaemonUnreachable):
            await writer.add(info, interrupted())
    lab.start_daemon()
    await writer.add(info, portions(nar))
    assert lab.is_valid(info.store_path)


# A daemon that misbehaves


INFO = PathInfo(
    store_path=StorePath.parse("7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-new"), nar_hash=Hash.of(b""), nar_size=1_000_000_000
)


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield MEGABYTE


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_daemon_that_takes_nothing_is_waited_for_until_the_limit_and_no_longer(
    tmp_path: Path, run: Callable[[Coroutine[None, None, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_STALL_LIMIT", 0.3)
    run(add_to_the_deaf(tmp_path))


async def add_to_the_deaf(tmp_path: Path) -> None:
    """What is made for it meanwhile is bounded by the buffers of a socket."""
    made = 0

    async def counted() -> AsyncIterator[bytes]:
        nonlocal made
        while True:
            made += 1
            yield MEGABYTE

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        cast(asyncio.Transport, writer.transport).pause_reading()
        await gone.wait()

    gone = asyncio.Event()
    async with Peer(tmp_path / "socket", deaf) as peer, asyncio.timeout(LIMIT):
        writer = DaemonWriter(peer.path, STORE_DIR)
        with pytest.raises(DaemonUnreachable, match="in time"):
            await writer.add(INFO, counted())
        assert made < 10
        gone.set()
        await writer.aclose()


async def test_a_daemon_that_never_answers_is_waited_for_until_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "_ADD_LIMIT", 0.3)

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await hang(reader, writer)

    async with Peer(tmp_path / "socket", swallow) as peer, asyncio.timeout(LIMIT):
        writer = DaemonWriter(peer.path, STORE_DIR)
        with pytest.raises(DaemonUnreachable, match="in time"):
            await writer.add(INFO, portions(MEGABYTE))
        await writer.aclose()


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (refusal("no"), DaemonRefused),
        (b"nonsense", DaemonProtocolError),
        (b"", DaemonUnreachable),
        (LAST, DaemonProtocolError),
    ],
)
async def test_an_answer_before_the_end_ends_the_sending(tmp_path: Path, reply: bytes, error: type[Exception]) -> None:
    """A Nix of today reads to the end first. Whoever does not is out of step: nothing more is said to it."""

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        await reader.readexactly(100_000)
        writer.write(reply)
        await writer.drain()
        if reply:
            await hang(reader, writer)

    async with Peer(tmp_path / "socket", early) as peer, asyncio.timeout(LIMIT):
        writer = DaemonWriter(peer.path, STORE_DIR)
        with pytest.raises(error):
            await writer.add(INFO, endless())
        await peer.all_hung_up()
        await writer.aclose()


async def test_an_idle_connection_is_closed_and_nobody_minds(daemon: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harmonia_py.store.daemon.importing._IDLE", 0.01)
    writer = DaemonWriter(daemon.socket, daemon.store_dir)
    for _ in range(2):
        assert await writer.missing([daemon.closure.top]) == set()
        async with asyncio.timeout(LIMIT):
            while daemon.connections():  # noqa: ASYNC110 - it is another process's state, which has no event
                await asyncio.sleep(0.005)
    await writer.aclose()
