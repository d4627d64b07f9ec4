import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvloop
from lab import Lab
from peer import LAST, Peer, Talk, hang, refusal, then, then_hang
from waiting import eventually

from harmonia_py.errors import DaemonError, DaemonProtocolError, DaemonRefused, DaemonUnreachable
from harmonia_py.nix.handshake import Frame
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir, StorePath
from harmonia_py.nix.wire import write_string, write_u64
from harmonia_py.nix.worker import Operation
from harmonia_py.store.daemon import store as store_module
from harmonia_py.store.daemon.store import DaemonStore

STORE_DIR = StoreDir.parse("/nix/store")
PATH = StorePath.parse("7h7qgvs4kgzsn8a6rb273saxyqh4jxlz-hello-2.12")
ABSENT = LAST + write_string("")


@pytest.fixture
async def store(daemon: Lab) -> AsyncIterator[DaemonStore]:
    store = DaemonStore(daemon.socket, daemon.store_dir)
    yield store
    await store.aclose()


def store_on(socket_path: Path, *, connections: int = 4, request_timeout: float = 10.0) -> DaemonStore:
    return DaemonStore(socket_path, STORE_DIR, connections=connections, request_timeout=request_timeout)


async def is_there(store: DaemonStore, store_path: StorePath) -> bool:
    info = await store.path_info(store_path.hash_part)
    return info is not None and info.store_path == store_path


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# A daemon that knows only what a cache asks


def without_options(answer: bytes | None) -> Talk:
    """Every path is absent; the operation SetOptions gets this answer, and then or in its place the connection ends."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(16)
        writer.write(bytes.fromhex("6f69786400000000 2201000000000000"))
        await reader.readexactly(16)
        writer.write(write_string("harmonia-daemon") + LAST)
        while operation := await reader.readexactly(8):
            if operation == write_u64(Operation.SET_OPTIONS):
                writer.write(answer or b"")
                return
            assert operation == write_u64(Operation.QUERY_PATH_FROM_HASH_PART)
            await reader.readexactly(len(write_string(PATH.hash_part)))
            writer.write(ABSENT)

    return talk


@pytest.mark.parametrize("answer", [None, refusal("operation 19 is not implemented"), write_u64(0xBAD)])
async def test_a_daemon_without_options_is_asked_all_the_same(tmp_path: Path, answer: bytes | None) -> None:
    """harmonia-daemon answers the operation SetOptions with an error, or hangs up: every request failed."""
    async with Peer(tmp_path / "socket", without_options(answer)):
        store = store_on(tmp_path / "socket")
        try:
            assert await store.path_info(PATH.hash_part) is None
            assert await store.path_info(PATH.hash_part) is None
        finally:
            await store.aclose()


# A daemon that is restarted


@pytest.mark.parametrize("connections", [True, False])
async def test_a_restart_between_requests_is_not_noticed(daemon: Lab, store: DaemonStore, *, connections: bool) -> None:
    for _ in range(3):
        assert await is_there(store, daemon.closure.top)
        daemon.stop_daemon(connections=connections)
        daemon.start_daemon()
    assert await is_there(store, daemon.closure.top)


async def test_a_restart_under_load_gives_right_answers_or_errors(daemon: Lab, store: DaemonStore) -> None:
    stop = asyncio.Event()
    answers: list[PathInfo | DaemonError | None] = []

    async def ask() -> None:
        while not stop.is_set():
            try:
                answers.append(await store.path_info(daemon.closure.top.hash_part))
            except DaemonError as error:
                answers.append(error)
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for _ in range(8):
            group.create_task(ask())
        for _ in range(4):
            before = len(answers)
            await eventually(lambda before=before: len(answers) > before + 20)  # type: ignore[misc]
            daemon.stop_daemon()
            daemon.start_daemon()
        stop.set()
    infos = {answer for answer in answers if not isinstance(answer, DaemonError)}
    assert {info and info.store_path for info in infos} == {daemon.closure.top}
    assert not any(isinstance(answer, DaemonRefused) for answer in answers)
    assert await is_there(store, daemon.closure.top)
    assert len(daemon.connections()) <= 4


async def test_while_the_daemon_is_away_it_is_unreachable_and_then_it_is_back(daemon: Lab, store: DaemonStore) -> None:
    assert await is_there(store, daemon.closure.top)
    daemon.stop_daemon()
    for _ in range(3):
        with pytest.raises(DaemonUnreachable):
            await store.path_info(daemon.closure.top.hash_part)
    daemon.start_daemon()
    assert await is_there(store, daemon.closure.top)


# Nobody there, or somebody else


async def test_without_a_socket_the_daemon_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable, match=r"cannot connect to the nix-daemon at .*missing"):
        await store_on(tmp_path / "missing").path_info(PATH.hash_part)


async def test_a_socket_on_which_nobody_listens_is_unreachable(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    with pytest.raises(DaemonUnreachable):
        await store_on(tmp_path / "socket").path_info(PATH.hash_part)


async def test_a_socket_path_that_is_too_long_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(DaemonUnreachable):
        await store_on(tmp_path / ("x" * 200)).path_info(PATH.hash_part)


def say(data: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await hang(reader, writer)

    return talk


@pytest.mark.parametrize(
    ("talk", "error"),
    [
        (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), DaemonProtocolError),
        (say(bytes.fromhex("6f697864000000001501000000000000")), DaemonProtocolError),
        (then(b"garbage!" * 10), DaemonProtocolError),
        (then_hang(LAST + write_string("/nix/store/x")), DaemonProtocolError),
        (then_hang(LAST + write_string("/elsewhere/" + PATH)), DaemonProtocolError),
        (then_hang(LAST + write_u64(2**40)), DaemonProtocolError),
        (then_hang(write_u64(Frame.NEXT) + write_u64(2**63)), DaemonProtocolError),
        (then_hang(LAST + write_u64(3) + b"abc\0\0\1\0\0"), DaemonProtocolError),
        (then(LAST[:5]), DaemonUnreachable),
        (then(LAST + write_u64(10) + b"abc"), DaemonUnreachable),
        (then_hang(refusal("\x1b[31;1mdisk full\x1b[0m")), DaemonRefused),
        (then(), DaemonUnreachable),
    ],
)  # fmt: skip
async def test_whatever_a_peer_says_is_one_of_the_daemon_errors(
    tmp_path: Path, talk: Talk, error: type[DaemonError]
) -> None:
    async with Peer(tmp_path / "socket", talk) as peer:
        store = store_on(peer.path)
        with pytest.raises(DaemonError) as caught:
            await store.path_info(PATH.hash_part)
        assert type(caught.value) is error
        assert "\x1b" not in str(caught.value)
        await store.aclose()
        await peer.all_hung_up()


async def test_a_peer_that_hangs_in_the_handshake_costs_only_the_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "CONNECT_SECONDS", 0.05)
    async with Peer(tmp_path / "socket", hang) as peer:
        store = DaemonStore(peer.path, STORE_DIR)
        start = time.monotonic()
        with pytest.raises(DaemonUnreachable):
            await store.path_info(PATH.hash_part)
        assert time.monotonic() - start < 5
        await peer.all_hung_up()


async def test_a_reply_that_does_not_come_in_time_closes_the_connection(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang()) as peer:
        with pytest.raises(DaemonUnreachable, match="in time"):
            await store_on(peer.path, request_timeout=0.05).path_info(PATH.hash_part)
        await peer.all_hung_up()


async def test_bytes_that_nobody_asked_for_close_the_connection(tmp_path: Path) -> None:
    """After a reply with something behind it, the next reply would be read at the wrong place."""
    async with Peer(tmp_path / "socket", then_hang(ABSENT + ABSENT, ABSENT)) as peer:
        store = store_on(peer.path)
        assert await store.path_info(PATH.hash_part) is None
        await peer.all_hung_up()
        assert await store.path_info(PATH.hash_part) is None
        assert peer.connections == 2
        await store.aclose()


async def test_after_an_error_of_the_daemon_the_connection_is_used_again(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang(refusal("no"), ABSENT)) as peer:
        store = store_on(peer.path)
        with pytest.raises(DaemonRefused, match=r"^no$"):
            await store.path_info(PATH.hash_part)
        assert await store.path_info(PATH.hash_part) is None
        assert peer.connections == 1
        await store.aclose()


async def test_a_fresh_connection_that_hangs_up_is_not_tried_for_ever(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then(ABSENT)) as peer:
        store = store_on(peer.path)
        assert await store.path_info(PATH.hash_part) is None
        await peer.all_hung_up()
        assert await store.path_info(PATH.hash_part) is None
        assert peer.connections == 2
        await store.aclose()


# Cancellation and the bounds of the pool


async def test_a_conversation_cancelled_in_the_middle_is_never_continued(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if peer.connections > 1:
            await then_hang(ABSENT)(reader, writer)
            return
        await then()(reader, writer)
        await reader.read(65536)
        asked.set()
        await hang(reader, writer)

    async with Peer(tmp_path / "socket", talk) as peer:
        store = store_on(peer.path, connections=1)
        first = asyncio.create_task(store.path_info(PATH.hash_part))
        await asked.wait()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await store.path_info(PATH.hash_part) is None
        assert peer.connections == 2
        await store.aclose()
        await peer.all_hung_up()


async def test_after_cancellations_at_any_moment_the_real_daemon_gives_right_answers(
    daemon: Lab, store: DaemonStore
) -> None:
    closure = daemon.closure
    for turns in range(40):
        task = asyncio.create_task(store.path_info(closure.input0.hash_part))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await is_there(store, closure.top)
    await store.aclose()
    await eventually(lambda: not daemon.connections())


async def test_a_thousand_cancellations_leak_nothing(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang()) as peer:
        store = store_on(peer.path)
        before = descriptors()
        for _ in range(100):
            tasks = [asyncio.create_task(store.path_info(PATH.hash_part)) for _ in range(10)]
            for _ in range(30):
                await asyncio.sleep(0)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await peer.all_hung_up()
        assert peer.connections > 100
        assert descriptors() <= before
        assert store._free._value == 4
        assert not store._open
        await store.aclose()


async def test_when_every_connection_is_busy_a_request_waits_only_so_long(tmp_path: Path) -> None:
    async with Peer(tmp_path / "socket", then_hang()) as peer:
        patient = store_on(peer.path, connections=1, request_timeout=0.1)
        asks = [asyncio.create_task(patient.path_info(PATH.hash_part)) for _ in range(5)]
        errors = await asyncio.gather(*asks, return_exceptions=True)
        assert all(type(error) is DaemonUnreachable for error in errors)
        assert any("busy" in str(error) for error in errors)
        assert peer.connections < 5
        await peer.all_hung_up()


async def test_there_are_never_more_connections_than_allowed(daemon: Lab) -> None:
    store = DaemonStore(daemon.socket, daemon.store_dir, connections=2)
    await asyncio.gather(*[store.path_info(daemon.closure.top.hash_part) for _ in range(50)])
    assert len(daemon.connections()) <= 2
    await store.aclose()


async def test_old_connections_are_closed_also_when_idle(daemon: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MAX_AGE", 0.1)
    store = DaemonStore(daemon.socket, daemon.store_dir)
    assert await is_there(store, daemon.closure.top)
    await eventually(lambda: not store._open)
    assert await is_there(store, daemon.closure.top)
    await store.aclose()


async def test_closing_ends_what_still_waits(tmp_path: Path) -> None:
    asked = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await then()(reader, writer)
        await reader.read(65536)
        asked.set()
        await hang(reader, writer)

    async with Peer(tmp_path / "socket", talk) as peer:
        store = store_on(peer.path)
        waiting = asyncio.create_task(store.path_info(PATH.hash_part))
        await asked.wait()
        await store.aclose()
        with pytest.raises(DaemonUnreachable):
            await waiting
        with pytest.raises(DaemonUnreachable, match="closed"):
            await store.path_info(PATH.hash_part)
        await peer.all_hung_up()


def test_it_works_on_uvloop(daemon: Lab) -> None:
    async def main() -> None:
        store = DaemonStore(daemon.socket, daemon.store_dir)
        assert await is_there(store, daemon.closure.top)
        daemon.stop_daemon()
        daemon.start_daemon()
        assert await is_there(store, daemon.closure.top)
        task = asyncio.create_task(store.path_info(daemon.closure.top.hash_part))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await is_there(store, daemon.closure.top)
        await store.aclose()

    uvloop.run(main())
