"""Which of the workers that wait on one socket takes a connection."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

import pytest
from serving import PATH, TIME_LIMIT, FakeSource, read_answer
from waiting import eventually

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches
from harmonia_py.metrics.board import Board, Metrics
from harmonia_py.nix.cache_info import CacheInfo
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.web.admission import accepting, leaving
from harmonia_py.web.server import serve
from harmonia_py.web.state import Serving


@pytest.fixture
def listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


@asynccontextmanager
async def worker(listener: socket.socket, metrics: Metrics) -> AsyncIterator[None]:
    """One that accepts on the socket, in this loop: all of them are told of each connection."""
    info = CacheInfo(StoreDir("/nix/store"), want_mass_query=True, priority=30)
    cache = BinaryCache(cache_info=info, sources=[FakeSource()], secret_keys=())
    serving = Serving(Caches(cache, public=True))
    async with serve(serving, [listener.dup()], access_log=None, metrics=metrics, shutdown_timeout=1.0):
        yield


@asynccontextmanager
async def clients(listener: socket.socket) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """What asks with so many clients, one after the other; each keeps its connection until the block ends."""
    with ExitStack() as connections:

        async def ask(count: int) -> None:
            for _ in range(count):
                reader, writer = await asyncio.open_connection(*listener.getsockname())
                connections.callback(writer.close)
                writer.write(f"GET /{PATH.hash_part}.narinfo HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert (await read_answer(reader)).status == 200

        async with asyncio.timeout(TIME_LIMIT):
            yield ask


async def test_of_two_workers_the_one_with_fewer_connections_takes_the_next(listener: socket.socket) -> None:
    """The first one that woke took all four connections of a client, and the other core was idle."""
    board = Board(2)
    one, two = board.claim(0), board.claim(1)
    with listener:
        async with worker(listener, one), worker(listener, two), clients(listener) as ask:
            await ask(8)
            assert (one.load.connections, two.load.connections) == (4, 4)


async def test_a_worker_that_came_later_takes_connections_until_it_has_as_many(listener: socket.socket) -> None:
    """Every second one went to the worker that had eight already: it had left the one before, and took the next."""
    board = Board(2)
    one, two = board.claim(0), board.claim(1)
    with listener:
        async with worker(listener, one), clients(listener) as ask:
            await ask(8)
            assert one.load.connections == 8
            async with worker(listener, two), clients(listener) as ask_more:
                await ask_more(8)
                assert (one.load.connections, two.load.connections) == (8, 8)


async def test_a_connection_that_comes_after_another_one_was_left_is_left_as_well(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end of its moment a worker took what waited then: not the connection that it had left, but the next."""
    left: list[socket.socket] = []
    real = accepting.Acceptor._left
    board = Board(2)
    other, ours = board.claim(1).load, board.claim(0)
    other.accepts(0)
    with listener, ExitStack() as stack:

        def left_by_ours(self: accepting.Acceptor, sock: socket.socket) -> None:
            left.append(sock)
            if len(left) == 1:
                stack.enter_context(sock.accept()[0])
                other.takes_one()
                stack.enter_context(socket.create_connection(listener.getsockname()))
            real(self, sock)

        async with worker(listener, ours), clients(listener) as ask:
            await ask(1)
            monkeypatch.setattr(accepting.Acceptor, "_left", left_by_ours)
            stack.enter_context(socket.create_connection(listener.getsockname()))
            await eventually(lambda: ours.load.connections == 2)
            assert len(left) == 2


async def test_a_connection_that_no_other_worker_takes_is_taken_all_the_same(listener: socket.socket) -> None:
    """One that has no connections may be busy for a while, with a long computation or with the disk."""
    board = Board(2)
    board.claim(1).load.accepts(0)  # it is this process, which lives, and accepts nothing there
    ours = board.claim(0)
    with listener:
        async with worker(listener, ours), clients(listener) as ask:
            await ask(3)
            assert ours.load.connections == 3


async def test_few_connections_wait_for_a_worker_that_takes_none(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them waited a moment for one that was stopped, or killed: a thousand were taken a second at most."""
    monkeypatch.setattr(leaving, "_PAUSE_SECONDS", TIME_LIMIT)
    left: list[socket.socket] = []
    real = accepting.Acceptor._left

    def note(self: accepting.Acceptor, sock: socket.socket) -> None:
        left.append(sock)
        real(self, sock)

    monkeypatch.setattr(accepting.Acceptor, "_left", note)
    board = Board(2)
    board.claim(1).load.accepts(0)
    ours = board.claim(0)
    with listener:
        async with worker(listener, ours), clients(listener) as ask:
            await ask(20)
            assert ours.load.connections == 20
            assert len(left) == 8


async def test_what_other_workers_took_before_a_connection_came_says_nothing_about_it(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first connection after a pause was left twice: what others had taken meanwhile counted as that one."""
    left: list[socket.socket] = []
    real = accepting.Acceptor._left

    def note(self: accepting.Acceptor, sock: socket.socket) -> None:
        left.append(sock)
        real(self, sock)

    monkeypatch.setattr(accepting.Acceptor, "_left", note)
    board = Board(2)
    other, ours = board.claim(1).load, board.claim(0)
    other.accepts(0)
    with listener:
        async with worker(listener, ours), clients(listener) as ask:
            await ask(1)
            other.takes_one()
            await ask(1)
            assert (ours.load.connections, len(left)) == (2, 1)


async def test_a_connection_that_was_taken_before_a_worker_looked_was_not_left_in_vain(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every worker is told of a connection, and a busy one looks when another has taken it."""
    told: list[tuple[accepting.Acceptor, socket.socket]] = []
    real = accepting.Acceptor._accept

    def accept(self: accepting.Acceptor, sock: socket.socket) -> None:
        told.append((self, sock))
        real(self, sock)

    monkeypatch.setattr(accepting.Acceptor, "_accept", accept)
    board = Board(2)
    board.claim(1).load.accepts(0)
    with listener:
        async with worker(listener, board.claim(0)), clients(listener) as ask:
            await ask(1)
            acceptor, sock = told[0]
            for _ in range(leaving._IN_VAIN):
                real(acceptor, sock)
                await eventually(lambda: acceptor._leaves is None)
            assert acceptor._leaving_to_others.is_due()


def test_a_worker_that_takes_none_is_left_one_again_after_a_pause_and_one_that_takes_them_each() -> None:
    now, board = [0.0], Board(2)
    ours = board.claim(0).load
    ours.accepts(1)
    board.claim(1).load.accepts(0)
    decided = leaving.Leaving(ours, lambda: now[0])
    for is_taken in ([False] * 7 + [True]) * 2:
        assert decided.is_due()
        decided.note(is_taken=is_taken)
    for _ in range(8):
        assert decided.is_due()
        decided.note(is_taken=False)
    assert not decided.is_due()
    now[0] += 1.0
    assert decided.is_due()


async def test_a_worker_that_stops_leaves_its_connections_to_the_others(listener: socket.socket) -> None:
    board = Board(2)
    one, two = board.claim(0), board.claim(1)
    with listener:
        async with worker(listener, one), clients(listener) as ask:
            async with worker(listener, two):
                pass
            await ask(3)
            assert one.load.connections == 3
            assert not one.load.exceeds_another()
