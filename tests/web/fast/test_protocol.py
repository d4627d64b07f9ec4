"""Narinfos answered without the framework: the same bytes, headers, log lines and figures as with it."""

import asyncio
from dataclasses import dataclass, field
from math import inf
from typing import Any

import pytest
from serving import ABSENT, PATH, Answer, FakeSource, Served, read_answer
from waiting import eventually

from harmonia_py import errors
from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches
from harmonia_py.cache.found import Found
from harmonia_py.cache.validity import ALWAYS, Epoch, Validity
from harmonia_py.nix.store_path import HashPart
from harmonia_py.web.fast import ready_answers
from harmonia_py.web.fast.protocol import FastProtocol

TARGET = f"/{PATH.hash_part}.narinfo"
REQUEST = f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, *headers: str
) -> tuple[bytes, Answer]:
    """The first line of the answer, and the answer without its date."""
    writer.write("\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *headers, "", ""]).encode())
    answer = await read_answer(reader)
    del answer.headers["Date"]
    return answer.body, answer


@dataclass
class SlowSource(FakeSource):
    """A source that answers when it is told to."""

    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        found = await super().narinfo(hash_part)
        await self.go.wait()
        return found


@pytest.mark.parametrize("accept", [(), ("Accept-Encoding: zstd, br, gzip",), ("Accept-Encoding: gzip;q=0.5",)])
async def test_a_narinfo_is_the_same_with_the_framework_without_it_and_ready(accept: tuple[str, ...]) -> None:
    async with Served(FakeSource()) as framework, Served(FakeSource()) as lane:
        slow = await framework.connect()
        fast = await lane.connect()
        _, by_framework = await exchange(*slow, TARGET, *accept, "X-Not-Harmless: 1")
        _, found = await exchange(*fast, TARGET, *accept)
        _, ready = await exchange(*fast, TARGET, *accept)
        assert by_framework.status == 200
        assert list(found.headers.items()) == list(ready.headers.items()) == list(by_framework.headers.items())
        assert found.body == ready.body == by_framework.body
        assert lane.source.asked == [f"narinfo {PATH.hash_part}"], "the second answer was not ready"
        for _, writer in (slow, fast):
            writer.close()
        (by_framework_line,) = framework.access_lines()
        first, second = lane.access_lines()
        assert first.rpartition(" ")[0] == second.rpartition(" ")[0] == by_framework_line.rpartition(" ")[0]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, 404),
        (errors.DaemonUnreachable("/secret/socket"), 503),
        (errors.DaemonProtocolError("garbage"), 502),
        (errors.DaemonRefused("no"), 500),
        (RuntimeError("/secret"), 500),
    ],
)
async def test_an_error_is_the_same_with_the_framework_and_without_it(error: Exception | None, status: int) -> None:
    async with Served(FakeSource(error=error)) as served:
        reader, writer = await served.connect()
        _, slow = await exchange(reader, writer, f"/{ABSENT}.narinfo", "X-Not-Harmless: 1")
        _, fast = await exchange(reader, writer, f"/{ABSENT}.narinfo")
        writer.close()
        assert fast.status == slow.status == status
        assert list(fast.headers.items()) == list(slow.headers.items())
        assert fast.body == slow.body
        assert b"secret" not in fast.body
        one, other = served.access_lines()
        assert one.rpartition(" ")[0] == other.rpartition(" ")[0]


async def test_what_is_known_to_be_absent_is_the_same_answer_and_no_source_is_asked() -> None:
    async with Served(FakeSource(), lacks=lambda hash_part: hash_part == ABSENT.encode()) as served:
        reader, writer = await served.connect()
        _, slow = await exchange(reader, writer, f"/{ABSENT}.narinfo", "X-Not-Harmless: 1")
        served.source.asked.clear()
        _, fast = await exchange(reader, writer, f"/{ABSENT}.narinfo")
        assert (await exchange(reader, writer, TARGET))[1].status == 200
        _, metrics = await exchange(reader, writer, "/metrics")
        writer.close()
        assert served.source.asked == [f"narinfo {PATH.hash_part}"]
        assert (fast.status, list(fast.headers.items()), fast.body) == (404, list(slow.headers.items()), slow.body)
        one, other, *_ = served.access_lines()
        assert one.rpartition(" ")[0] == other.rpartition(" ")[0]
        assert 'harmonia_http_requests_total{method="GET",path="narinfo",status="404"} 2\n' in metrics.body.decode()


@pytest.mark.parametrize("name", ["0" * 31, "0" * 33, "e" * 32, "%30" * 32, "..", "Z" * 32])
async def test_what_is_no_hash_part_is_not_asked_for(name: str) -> None:
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        _, answer = await exchange(reader, writer, f"/{name}.narinfo")
        writer.close()
        assert answer.status == 404
        assert not served.source.asked or name.startswith("%")


async def test_requests_sent_while_a_narinfo_is_looked_up_are_answered_after_it_in_order() -> None:
    source = SlowSource()
    async with Served(source) as served:
        reader, writer = await served.connect()
        writer.write(f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await eventually(lambda: source.asked)
        writer.write(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n")
        writer.write(f"GET /{ABSENT}.narinfo HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await asyncio.sleep(0.05)
        source.go.set()
        assert (await read_answer(reader)).body.startswith(b"StorePath: ")
        assert (await read_answer(reader)).body.startswith(b"harmonia-py")
        assert (await read_answer(reader)).status == 404
        writer.close()


async def test_a_request_that_comes_with_the_connection_is_answered_without_the_framework(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The framework's task had not begun to wait: under load the first request was always its own."""
    protocols: list[FastProtocol] = []
    connection_made = FastProtocol.connection_made

    def with_a_request(protocol: FastProtocol, transport: asyncio.BaseTransport) -> None:
        connection_made(protocol, transport)
        protocols.append(protocol)
        protocol.data_received(REQUEST)

    monkeypatch.setattr(FastProtocol, "connection_made", with_a_request)
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        assert (await read_answer(reader)).status == 200
        assert protocols[0]._request_count == 0  # of the framework
        _, by_framework = await exchange(reader, writer, TARGET, "X-Not-Harmless: 1")
        assert by_framework.status == 200
        writer.close()


async def test_a_request_that_comes_right_after_an_answer_is_answered_without_the_framework(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next request came before the framework waited for it, so it was the framework's, and so on for ever."""
    protocols: list[FastProtocol] = []
    handle = FastProtocol._handle_request

    async def followed_by_a_request(protocol: FastProtocol, *arguments: Any) -> Any:
        protocols.append(protocol)
        answered = await handle(protocol, *arguments)
        # This task has ended then, and the framework's, which waits for it, has not had its turn.
        asyncio.get_running_loop().call_soon(protocol.data_received, REQUEST)
        return answered

    monkeypatch.setattr(FastProtocol, "_handle_request", followed_by_a_request)
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        _, by_framework = await exchange(reader, writer, TARGET, "X-Not-Harmless: 1")
        answer = await read_answer(reader)
        assert answer.status == by_framework.status == 200
        assert answer.body == by_framework.body
        assert protocols[0]._request_count == 1
        writer.close()


async def test_a_request_behind_an_answer_that_ends_the_connection_is_not_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handle = FastProtocol._handle_request

    async def followed_by_a_request(protocol: FastProtocol, *arguments: Any) -> Any:
        answered = await handle(protocol, *arguments)
        asyncio.get_running_loop().call_soon(protocol.data_received, REQUEST)
        return answered

    monkeypatch.setattr(FastProtocol, "_handle_request", followed_by_a_request)
    async with Served(FakeSource()) as served:
        data = await served.send(f"GET {TARGET} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
        assert data.count(b"HTTP/1.1 ") == 1


async def test_a_client_that_leaves_during_a_look_up_leaves_nothing_behind() -> None:
    source = SlowSource()
    async with Served(source) as served:
        tasks = len(asyncio.all_tasks())
        writers = []
        for _ in range(20):
            _, writer = await served.connect()
            writer.write(f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            writers.append(writer)
        await eventually(lambda: len(source.asked) == 20)
        for writer in writers:
            writer.transport.abort()
        source.go.set()
        await eventually(lambda: len(served.access_lines()) == 20)
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)


async def test_a_look_up_is_answered_although_the_server_is_stopping() -> None:
    source = SlowSource()
    async with Served(source, shutdown_timeout=20) as served:
        reader, writer = await served.connect()
        writer.write(f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await eventually(lambda: source.asked)
        stopping = asyncio.create_task(served.__aexit__())
        await asyncio.sleep(0.05)
        source.go.set()
        assert (await read_answer(reader)).status == 200
        assert await reader.read() == b""
        await stopping
        writer.close()


async def test_a_look_up_outlasts_the_keep_alive_time() -> None:
    source = SlowSource()
    async with Served(source, keepalive_timeout=0.1) as served:
        reader, writer = await served.connect()
        writer.write(f"GET {TARGET} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await eventually(lambda: source.asked)
        await asyncio.sleep(0.3)
        source.go.set()
        assert (await read_answer(reader)).status == 200
        writer.close()


async def test_every_answer_is_counted_once() -> None:
    async with Served(FakeSource()) as served:
        reader, writer = await served.connect()
        for target in (TARGET, TARGET, f"/{ABSENT}.narinfo"):
            await exchange(reader, writer, target)
        _, metrics = await exchange(reader, writer, "/metrics")
        writer.close()
        lines = metrics.body.decode().splitlines()
        count = 'harmonia_http_requests_total{method="GET",path="narinfo",status='
        assert next(line for line in lines if line.startswith(f'{count}"200"')).endswith(" 2")
        assert next(line for line in lines if line.startswith(f'{count}"404"')).endswith(" 1")


async def test_a_narinfo_is_ready_while_nothing_has_changed_and_not_a_moment_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ready_answers, "READY_SECONDS", 0.0)
    epoch = Epoch(inf)
    source = FakeSource(validity=Validity(inf, (epoch,)))
    async with Served(source) as served:
        reader, writer = await served.connect()
        for _ in range(3):
            await exchange(reader, writer, TARGET)
        assert len(source.asked) == 1
        epoch.until = 0.0
        for _ in range(3):
            await exchange(reader, writer, TARGET)
        assert len(source.asked) == 4
        epoch.until = inf
        await exchange(reader, writer, TARGET)
        assert len(source.asked) == 4, "what was found to stand once more was asked for again"
        writer.close()


async def test_a_narinfo_of_which_nobody_knows_how_long_it_is_right_is_not_ready_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ready_answers, "READY_SECONDS", 0.0)
    source = FakeSource(validity=None)
    async with Served(source) as served:
        reader, writer = await served.connect()
        for _ in range(3):
            await exchange(reader, writer, TARGET)
        assert len(source.asked) == 3
        writer.close()


async def test_a_narinfo_that_is_not_right_for_another_moment_is_given_once() -> None:
    """What took until then to be signed and encoded made the answers at hand look for the oldest of none."""
    source = FakeSource(validity=Validity(0.0, ()))
    async with Served(source) as served:
        reader, writer = await served.connect()
        for _ in range(2):
            assert (await exchange(reader, writer, TARGET))[1].status == 200
        assert len(source.asked) == 2
        writer.close()


@pytest.mark.parametrize("headers", [(), ("X-Not-Harmless: 1",)])
async def test_what_was_looked_up_before_a_reload_is_not_ready_after_it(headers: tuple[str, ...]) -> None:
    """A narinfo found in the cache of before, with the signatures of before, was given for two seconds after."""
    before, after = SlowSource(validity=ALWAYS), FakeSource(validity=ALWAYS)
    async with Served(before) as served:
        reader, writer = await served.connect()
        answer = asyncio.create_task(exchange(reader, writer, TARGET, *headers))
        await eventually(lambda: before.asked)
        cache_info = served.cache.cache_info
        served.serving.replace(Caches(BinaryCache(cache_info=cache_info, sources=[after], secret_keys=())))
        before.go.set()
        assert (await answer)[1].status == 200
        await exchange(reader, writer, TARGET)
        writer.close()
        assert after.asked, "the answer of the cache of before was given"
