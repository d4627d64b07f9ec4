"""No client takes up more than its share: of connections, of time, of requests."""

import asyncio
import itertools
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from server import Server
from serving import PATH, TIME_LIMIT, FakeSource, Served, read_answer
from teams import served_teams
from waiting import eventually

from harmonia_py.cache.found import Found
from harmonia_py.cache.source import UNNAMED, Asker, Download, FileSlice, Pause, Piece
from harmonia_py.errors import FormatError
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.admission import accepting, open_connections
from harmonia_py.web.admission.clients import Clients, Proxies, group_of
from harmonia_py.web.admission.limits import Limits, Pace, unsent_bytes
from harmonia_py.web.admission.rate_limit import RateLimiter, RateTable
from harmonia_py.web.fast.connection import Connection

NARINFO = f"/{PATH.hash_part}.narinfo"
MIB = 1024 * 1024


def nar_url(source: FakeSource) -> str:
    return f"/nar/{Hash.of(source.nar_bytes).nix32}.nar?hash={PATH.hash_part}"


class TestConnections:
    async def test_whoever_comes_when_all_are_taken_waits_until_one_is_free(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(open_connections, "_IDLE_SECONDS", TIME_LIMIT)
        async with Served(FakeSource(), limits=Limits(max_connections=2)) as served, asyncio.timeout(TIME_LIMIT):
            first, second, third = [await served.connect() for _ in range(3)]
            for reader, writer in (first, second):
                writer.write(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert (await read_answer(reader)).status == 200
            third[1].write(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            waiting = asyncio.create_task(read_answer(third[0]))
            # The others are served as often as they like, while the third waits in the kernel's queue.
            for _ in range(20):
                first[1].write(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert (await read_answer(first[0])).status == 200
            assert not waiting.done()
            second[1].close()
            assert (await waiting).status == 200
            for _, writer in (first, third):
                writer.close()

    async def test_a_burst_far_beyond_the_limit_is_served_in_the_end(self) -> None:
        async with Served(FakeSource(), limits=Limits(max_connections=3)) as served, asyncio.timeout(TIME_LIMIT):
            answers = await asyncio.gather(*(served.get(NARINFO) for _ in range(60)))
        assert {answer.status for answer in answers} == {200}

    async def test_too_few_descriptors_are_a_message_and_a_pause(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Served(FakeSource(), limits=Limits()) as served, asyncio.timeout(TIME_LIMIT):
            real, failures = socket.socket.accept, iter([OSError(24, "Too many open files")])

            def accept(sock: socket.socket) -> tuple[socket.socket, object]:
                for failure in failures:
                    raise failure
                return real(sock)

            with monkeypatch.context() as patch:
                patch.setattr(socket.socket, "accept", accept)
                assert (await served.get(NARINFO)).status == 200
        assert caplog.messages == ["no connection can be accepted: Too many open files"]


async def ask(client: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> int:
    reader, writer = client
    writer.write(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return (await read_answer(reader)).status


async def is_refused(served: Served) -> bool:
    """Whether another connection from 127.0.0.1 is reset: while it is made, or when it is read from."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        try:
            await loop.sock_connect(sock, ("127.0.0.1", served.port))
            return await loop.sock_recv(sock, 1) == b"never"
        except ConnectionResetError:
            return True


class TestConnectionsOfOneClient:
    """4,096 silent connections of one address, opened in 0.2 s, kept every other client waiting for 73 s."""

    LIMITS = Limits(max_connections=8, connections_per_client=4)

    async def test_what_one_address_has_is_bounded_and_others_are_served(self) -> None:
        async with Served(FakeSource(), limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            silent = [await served.connect() for _ in range(4)]
            assert await is_refused(served)
            other = await served.connect(source="127.0.0.2")
            assert await ask(other) == 200
            # What it had stays.
            for client in silent:
                assert await ask(client) == 200
            for _, writer in (*silent, other):
                writer.close()

    async def test_many_refusals_look_at_the_connections_of_their_client_once(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Each refusal looked at all 256 of them, which took a quarter of the time of an event loop under attack."""
        looked_at: list[object] = []
        idle_since = property(looked_at.append)  # None: not idle
        monkeypatch.setattr(accepting, "_BUSY_SECONDS", TIME_LIMIT)
        async with Served(FakeSource(), limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            clients = [await served.connect() for _ in range(4)]
            monkeypatch.setattr(Connection, "idle_since", idle_since)
            for _ in range(10):
                assert await is_refused(served)
            assert len(looked_at) == 4
            for _, writer in clients:
                writer.close()

    async def test_a_client_that_has_many_makes_room_for_itself(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(open_connections, "_IDLE_SECONDS", 0.05)
        async with Served(FakeSource(), limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            clients = []
            for _ in range(4):
                clients.append(await served.connect())
                assert await ask(clients[-1]) == 200
            await asyncio.sleep(0.1)  # the time in which a connection counts as used
            assert await ask(clients[0]) == 200
            clients.append(await served.connect())
            assert await ask(clients[-1]) == 200
            # The one that was idle for longest is gone, and no other.
            assert await clients[1][0].read() == b""
            for client in (clients[0], *clients[2:]):
                assert await ask(client) == 200
            for _, writer in clients:
                writer.close()

    async def test_when_all_are_taken_the_longest_idle_one_makes_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(open_connections, "_IDLE_SECONDS", 0.05)
        slow = SlowSource()
        async with Served(slow, limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            # Some are silent, some have begun a request that they do not finish, and one waits for its answer.
            clients = [await served.connect(source=f"127.0.0.{i}") for i in range(1, 9)]
            for _, writer in clients[2:7]:
                writer.write(b"GET / HT")
            waiting = asyncio.create_task(ask(clients[7]))
            await eventually(lambda: slow.asked)
            newcomers = [await served.connect(source=f"127.0.1.{i}") for i in range(1, 8)]
            asking = [asyncio.create_task(ask(client)) for client in newcomers]
            await eventually(lambda: len(slow.asked) == 8)
            slow.go.set()
            assert [await task for task in (waiting, *asking)] == [200] * 8
            for _, writer in (*clients, *newcomers):
                writer.close()

    async def test_a_proxy_that_is_trusted_has_as_many_as_it_needs(self) -> None:
        clients = Clients(proxies=Proxies(["127.0.0.1"]))
        async with (
            Served(FakeSource(), limits=self.LIMITS, clients=clients) as served,
            asyncio.timeout(TIME_LIMIT),
        ):
            connections = [await served.connect() for _ in range(8)]
            assert [await ask(connection) for connection in connections] == [200] * 8
            for _, writer in connections:
                writer.close()

    async def test_a_burst_of_one_client_is_passed_by_the_others(self) -> None:
        """Connections were opened as they came, and each costs as much as its request: 120 at once took 30 ms."""
        async with Served(FakeSource()) as served, asyncio.timeout(TIME_LIMIT):

            def ask_and_leave(source: str) -> socket.socket:
                sock = socket.socket()
                sock.bind((source, 0))
                sock.connect(("127.0.0.1", served.port))
                sock.sendall(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                return sock

            # The server is the loop of this test: all of them have come before it looks.
            sockets = [ask_and_leave("127.66.6.6") for _ in range(100)]
            sockets.append(ask_and_leave("127.0.0.1"))
            await eventually(lambda: len(served.access_lines()) == 101)
            for sock in sockets:
                sock.close()
            [place] = [place for place, line in enumerate(served.access_lines()) if "127.0.0.1" in line]
            assert place < 20

    async def test_a_refusal_says_what_to_do_once_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        async with Served(FakeSource(), limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            clients = [await served.connect() for _ in range(4)]
            for _ in range(4):
                assert await is_refused(served)
            for _, writer in clients:
                writer.close()
        assert caplog.text.count("127.0.0.1 has 4 connections") == 1
        assert "limits.trusted_proxies" in caplog.text

    def test_what_counts_as_one_client(self) -> None:
        clients = Clients(proxies=Proxies(["10.0.0.0/8"]))
        assert clients.counted("2001:db8::1") == clients.counted("2001:db8::ffff:2")
        assert clients.counted("2001:db8::1") != clients.counted("2001:db8:0:1::1")
        assert clients.counted("192.0.2.1") == "192.0.2.1"
        assert [clients.counted(peer) for peer in ("10.1.2.3", "unix", "gone")] == [None] * 3


@dataclass
class SlowSource(FakeSource):
    """A source that answers when it is told to."""

    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        found = await super().narinfo(hash_part)
        await self.go.wait()
        return found


class TestHeaders:
    LIMITS = Limits(header_timeout=0.2)

    def test_it_holds_also_for_bytes_that_come_with_the_connection(self, tmp_path: Path) -> None:
        """They were not seen as the beginning of a header: the connection was kept as long as an idle one."""
        settings = {"workers": 1, "limits": {"header_timeout": 0.5}}
        with Server(tmp_path, os.environ, settings) as server, ExitStack() as stack:
            # Many at once, so that the loop, which is uvloop's here, finds the bytes with the connections.
            clients = [stack.enter_context(socket.socket()) for _ in range(50)]
            for client in clients:
                client.connect(("127.0.0.1", server.port))
                client.sendall(b"GET / HTTP/1.1\r\nHo")
                client.settimeout(TIME_LIMIT)
            for client in clients:
                assert client.recv(4096).startswith(b"HTTP/1.1 408 ")

    async def test_it_holds_also_for_bytes_that_come_while_an_answer_is_made(self) -> None:
        slow = SlowSource()
        async with Served(slow, limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            reader, writer = await served.connect()
            writer.write(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\nX-Slow: way\r\n\r\n".encode())
            await eventually(lambda: slow.asked)
            writer.write(b"GET / HT")
            # Longer than a header may take; the answer comes first all the same, and whole.
            await asyncio.sleep(0.5)
            slow.go.set()
            assert (await read_answer(reader)).status == 200
            assert (await read_answer(reader)).status == 408
            writer.close()

    async def test_a_header_that_comes_byte_by_byte_is_cut(self) -> None:
        """Slowloris: each connection costs its sender a byte a minute, and us a place."""
        async with Served(FakeSource(), limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            reader, writer = await served.connect()
            request = f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\n" + "X-Filler: abc\r\n" * 1000
            try:
                answer = asyncio.create_task(reader.read())
                for place in itertools.count():
                    if answer.done() or writer.is_closing():
                        break
                    writer.write(request[place : place + 1].encode())
                    await asyncio.sleep(0.01)
                # A byte that crosses the end of the connection turns what we were told into a reset.
                with suppress(ConnectionResetError):
                    assert (await answer).startswith(b"HTTP/1.1 408 ")
            finally:
                writer.close()
            assert any(" 408 " in line for line in served.access_lines())
        assert served.source.asked == []

    async def test_so_is_the_second_one_of_a_connection(self) -> None:
        async with Served(FakeSource(), limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            reader, writer = await served.connect()
            writer.write(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert (await read_answer(reader)).status == 200
            writer.write(b"GET /")
            assert (await read_answer(reader)).status == 408
            assert await reader.read() == b""
            writer.close()

    async def test_an_idle_connection_is_no_slow_header(self) -> None:
        async with Served(FakeSource(), limits=Limits(header_timeout=1.0)) as served, asyncio.timeout(TIME_LIMIT):
            reader, writer = await served.connect()
            for _ in range(2):
                # In two parts, and then a pause that is longer than the limit.
                writer.write(f"GET {NARINFO} HTTP/1.1\r\n".encode())
                await asyncio.sleep(0.01)
                writer.write(b"Host: x\r\n\r\n")
                assert (await read_answer(reader)).status == 200
                await asyncio.sleep(1.2)
            writer.close()

    async def test_an_answer_that_does_not_come_is_503(self) -> None:
        class Stuck(FakeSource):
            async def narinfo(self, hash_part: HashPart) -> Found | None:
                await asyncio.sleep(TIME_LIMIT)
                return await super().narinfo(hash_part)

        async with Served(Stuck(), limits=Limits(request_timeout=0.1)) as served, asyncio.timeout(TIME_LIMIT):
            answer = await served.get(NARINFO)
            assert (answer.status, answer.body) == (503, b"Service Unavailable\n")
            assert int(answer.headers["Retry-After"]) > 0

    async def test_a_download_that_has_begun_may_take_longer(self) -> None:
        def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
            yield b"n" * 50_000
            yield Pause(1.2)
            yield b"n" * 50_000

        source = FakeSource(nar_bytes=b"n" * 100_000, pieces=pieces)
        async with Served(source, limits=Limits(request_timeout=1.0)) as served, asyncio.timeout(TIME_LIMIT):
            assert (await served.get(nar_url(source))).body == source.nar_bytes


@dataclass
class FileSource(FakeSource):
    """The NAR is a file, so that the second answer is ready."""

    fd: int = -1

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:  # noqa: ARG002  # the port's signature
        download = await super().nar(url)
        if download is None:
            return None
        file = FileSlice(self.fd, 0, len(self.nar_bytes))
        return Download(size=download.size, etag=download.etag, pieces=lambda *_: iter(()), file=file)


class TestSlowReaders:
    """The kernel's buffers take some megabytes at once, so the limit here is one that only they pass."""

    LIMITS = Limits(min_rate=500 * MIB, rate_grace=0.3)

    @staticmethod
    async def read_slowly(served: Served, target: str) -> int:
        """Read some 3 MB/s; the number of bytes until the end, or until it was cut."""
        reader, writer = await served.connect(receive_buffer=64 * 1024)
        count = 0
        try:
            writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            while count < len(served.source.nar_bytes) and (data := await reader.read(32 * 1024)):
                count += len(data)
                await asyncio.sleep(0.01)
        except ConnectionResetError:
            pass
        finally:
            writer.close()
        return count

    async def test_one_that_takes_too_little_is_cut(self) -> None:
        source = FakeSource(nar_bytes=bytes(64 * MIB))
        async with Served(source, limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            assert await self.read_slowly(served, nar_url(source)) < 64 * MIB
            await eventually(lambda: source.opened == source.closed)

    async def test_so_is_one_that_is_sent_a_file_that_is_ready(self, disk_path: Path) -> None:
        source = FileSource(nar_bytes=bytes(64 * MIB))
        (disk_path / "nar").write_bytes(source.nar_bytes)
        source.fd = os.open(disk_path / "nar", os.O_RDONLY)
        try:
            async with Served(source, limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
                # The slow way has no pieces here, so only the ready file can send anything.
                file = FileSlice(source.fd, 0, 64 * MIB)
                download = Download(size=64 * MIB, etag="x", pieces=lambda *_: iter(()), file=file)
                served.serving.forget_what_is_old()  # as the request before, for which the file was opened
                served.serving.answers.add_file(
                    served.serving.caches.default, nar_url(source)[1:], {"ETag": '"x"'}, file, download
                )
                assert 0 < await self.read_slowly(served, nar_url(source)) < 64 * MIB
        finally:
            os.close(source.fd)

    # To read everything takes four seconds at least: each rate is looked at meanwhile, and two seconds in which a busy
    # machine does not let the reader run are no accident.
    @pytest.mark.parametrize("limits", [Limits(min_rate=0, rate_grace=0.1), Limits(min_rate=250, rate_grace=2.0)])
    async def test_one_that_takes_enough_gets_everything(self, limits: Limits) -> None:
        source = FakeSource(nar_bytes=bytes(12 * MIB))
        async with Served(source, limits=limits) as served, asyncio.timeout(TIME_LIMIT):
            assert await self.read_slowly(served, nar_url(source)) >= 12 * MIB

    async def test_time_in_which_the_client_waits_for_us_does_not_count(self) -> None:
        def pieces(_start: int, _stop: int | None) -> Iterator[Piece]:
            for _ in range(10):
                yield Pause(0.1)
                yield b"n" * 1000

        source = FakeSource(nar_bytes=b"n" * 10_000, pieces=pieces, unknown_size=True)
        async with Served(source, limits=self.LIMITS) as served, asyncio.timeout(TIME_LIMIT):
            assert (await served.get(nar_url(source))).body == source.nar_bytes

    async def test_one_that_asks_and_never_reads_is_cut(self) -> None:
        """Answers that are no downloads wait in our memory, and a closed connection for ever."""
        source = FakeSource(listing_bytes=b"x" * 60_000)
        async with Served(source, stall_timeout=0.3) as served, asyncio.timeout(TIME_LIMIT):
            reader, writer = await served.connect(receive_buffer=4096)
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # the stream's transport reads
            request = f"GET /{PATH.hash_part}.ls HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            with pytest.raises(ConnectionError):  # noqa: PT012  # it is cut at some time
                while True:
                    writer.write(request * 100)
                    await writer.drain()
            writer.close()
            del reader

    def test_the_pace_is_that_of_each_period_alone(self) -> None:
        pace = Pace(Limits(min_rate=100, rate_grace=10))
        assert pace.is_fast_enough(10, 1_000_000)
        assert pace.is_fast_enough(9, 1_000_000)
        # A fast beginning is no excuse for a trickle without end.
        assert not pace.is_fast_enough(1, 1_000_999)
        assert pace.is_fast_enough(10, 1_001_999)
        assert pace.patience == 10

    def test_a_socket_that_was_closed_meanwhile_has_nothing_to_send(self) -> None:
        """A look at a client that had just left raised ValueError."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.send(b"untaken")
            assert unsent_bytes(ours.fileno()) > 0
        assert unsent_bytes(ours.fileno()) == 0


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class TestRates:
    @staticmethod
    def limiter(clock: Clock, rate: float = 2.0, burst: int = 3, table: RateTable | None = None) -> RateLimiter:
        return RateLimiter(table or RateTable(), rate=rate, burst=burst, clock=clock)

    def test_a_burst_is_allowed_and_then_so_many_a_second(self) -> None:
        clock = Clock()
        limiter = self.limiter(clock)
        assert [limiter.take("a") for _ in range(3)] == [0, 0, 0]
        assert limiter.take("a") == pytest.approx(0.5)
        assert limiter.take("b") == 0
        clock.now += 0.5
        assert limiter.take("a") == 0
        assert limiter.take("a") > 0
        clock.now += 100
        assert [limiter.take("a") > 0 for _ in range(4)] == [False, False, False, True]

    @given(st.lists(st.floats(0, 2), max_size=60), st.integers(1, 5), st.sampled_from([0.5, 1.0, 4.0]))
    def test_no_more_than_the_bucket_holds_and_gets_are_let_in(
        self, pauses: list[float], burst: int, rate: float
    ) -> None:
        clock = Clock()
        limiter = self.limiter(clock, rate, burst)
        let_in = 0
        for pause in pauses:
            clock.now += pause
            let_in += limiter.take("a") == 0
        assert let_in <= burst + rate * sum(pauses) + 1e-6

    def test_what_is_given_back_can_be_taken_again(self) -> None:
        limiter = self.limiter(Clock(), burst=1)
        for _ in range(3):
            assert limiter.take("a") == 0
            limiter.give_back("a")
        assert [limiter.take("a") > 0 for _ in range(2)] == [False, True]

    def test_every_worker_counts_in_the_same_table(self) -> None:
        clock, table = Clock(), RateTable()
        one, other = self.limiter(clock, table=table), self.limiter(clock, table=table)
        assert [one.take("a"), other.take("a"), one.take("a")] == [0, 0, 0]
        assert one.take("a") == other.take("a") > 0

    def test_very_many_clients_take_no_more_memory_and_are_all_let_in(self) -> None:
        limiter = self.limiter(Clock(), burst=1)
        assert all(limiter.take(f"client {number}") == 0 for number in range(200_000))

    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("192.0.2.1", "192.0.2.2", False),
            ("192.0.2.1", "::ffff:192.0.2.1", True),
            ("2001:db8::1", "2001:db8::ffff:1:2:3", True),
            ("2001:db8::1", "2001:db8:0:1::1", False),
            ("fe80::1%eth0", "fe80::2%eth0", True),
        ],
    )
    def test_one_client_is_an_ipv4_address_or_an_ipv6_network(self, one: str, other: str, *, same: bool) -> None:
        assert (group_of(one) == group_of(other)) is same

    def test_who_has_no_address_is_not_limited(self) -> None:
        limiter = RateLimiter(RateTable(), rate=1, burst=1, group_of=group_of, clock=Clock())
        assert [limiter.take("unix") for _ in range(5)] == [0] * 5


class TestTooManyRequests:
    @staticmethod
    @asynccontextmanager
    async def limited(burst: int, *proxies: str) -> AsyncIterator[Served]:
        limiter = RateLimiter(RateTable(), rate=0.001, burst=burst, group_of=group_of)
        clients = Clients(proxies=Proxies(proxies), limiter=limiter)
        async with Served(FakeSource(), clients=clients) as served, asyncio.timeout(TIME_LIMIT):
            yield served

    async def test_one_too_many_is_429_and_says_when_to_come_back(self) -> None:
        async with self.limited(2) as served:
            assert [(await served.get(NARINFO)).status for _ in range(2)] == [200, 200]
            answer = await served.get("/nothing")
            assert (answer.status, answer.body) == (429, b"Too Many Requests\n")
            assert 1 <= int(answer.headers["Retry-After"]) <= 1000
            assert answer.headers["Cache-Control"] == "no-store"
            assert (await served.get("/health")).status == 200

    async def test_a_token_that_is_revoked_while_a_push_waits_for_its_turn_is_not_good(self) -> None:
        """It was known from a request before, and was looked at as it had been before the wait."""
        clients = Clients(limiter=RateLimiter(RateTable(), rate=2, burst=1, group_of=group_of))
        async with served_teams(clients=clients) as served, asyncio.timeout(TIME_LIMIT):
            known = await served.get("/team/nix-cache-info", {"Authorization": "Bearer reader"})
            assert known.status == 200
            reader, writer = await served.connect()
            lines = ["PUT /team/push/nix-cache-info HTTP/1.1", "Host: x", "User-Agent: curl/8.14.1 Nix/2.8.0"]
            writer.write("\r\n".join([*lines, "Authorization: Bearer reader", "Content-Length: 1", "", "x"]).encode())
            await asyncio.sleep(0.2)
            served.tokens.revoke("reader")
            assert (await read_answer(reader)).status == 401
            writer.close()

    async def test_ready_answers_count_as_well(self) -> None:
        async with self.limited(5) as served:
            reader, writer = await served.connect()
            statuses = []
            for _ in range(7):
                writer.write(f"GET {NARINFO} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                statuses.append((await read_answer(reader)).status)
            writer.close()
            assert statuses == [200] * 5 + [429] * 2
            assert len(served.source.asked) == 1

    async def test_behind_a_proxy_each_of_its_clients_counts_alone(self) -> None:
        async with self.limited(1, "127.0.0.0/8") as served:
            for client in ("192.0.2.1", "192.0.2.2", "evil, 192.0.2.3", "192.0.2.1, 192.0.2.4, 127.0.0.9"):
                assert (await served.get(NARINFO, {"X-Forwarded-For": client})).status == 200
            assert (await served.get(NARINFO, {"X-Forwarded-For": "198.51.100.7, 192.0.2.4"})).status == 429
            # The log names them, too.
            assert [line.split()[1] for line in served.access_lines()] == [
                f"192.0.2.{number}" for number in (1, 2, 3, 4, 4)
            ]

    async def test_who_is_no_proxy_cannot_say_who_it_is(self) -> None:
        async with self.limited(1) as served:
            assert (await served.get(NARINFO, {"X-Forwarded-For": "192.0.2.1"})).status == 200
            assert (await served.get(NARINFO, {"X-Forwarded-For": "192.0.2.2"})).status == 429

    def test_only_networks_and_unix_are_proxies(self) -> None:
        proxies = Proxies.parse(["10.0.0.0/8", "::1", "unix"])
        assert proxies.client("unix", "192.0.2.1") == "192.0.2.1"
        assert proxies.client("10.1.2.3", "192.0.2.1, 10.9.9.9") == "192.0.2.1"
        assert proxies.client("10.1.2.3", "") == "10.1.2.3"
        assert proxies.client("10.1.2.3", "192.0.2.1, unknown") == "10.1.2.3"
        assert proxies.client("192.0.2.9", "192.0.2.1") == "192.0.2.9"
        with pytest.raises(FormatError):
            Proxies.parse(["example.org"])
