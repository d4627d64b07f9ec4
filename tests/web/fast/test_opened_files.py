"""Kept files that are not ready are opened without the framework, and answered as it would answer them."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from serving import PATH, Answer, FakeSource, Served, read_answer
from waiting import eventually

from harmonia_py.cache.binary_cache import BinaryCache
from harmonia_py.cache.caches import Caches
from harmonia_py.cache.source import UNNAMED, Asker, Download, FileSlice, NotAtOnce
from harmonia_py.cache.tokens import TokenHash, Tokens
from harmonia_py.errors import UpstreamUnreachable
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.web.admission.clients import Clients
from harmonia_py.web.admission.rate_limit import RateLimiter, RateTable
from harmonia_py.web.fast import ready_file

MIB = 1024 * 1024
BY_FRAMEWORK = "X-Not-Harmless: 1"


class KeptSource(FakeSource):
    """A source with one compressed NAR, which is a file.

    Attributes:
        at_once: whether the file can be opened at once.
        etag, file_size: in place of those of the file.
        go: what an asker at once waits for.
        asked_at_once: how many times it was asked so.
    """

    fd: int
    go: asyncio.Event
    at_once: bool = True
    etag: str | None = None
    file_size: int | None = None
    asked_at_once: int = 0

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        if asker.at_once:
            self.asked_at_once += 1
            await self.go.wait()
            if not self.at_once:
                raise NotAtOnce
        download = await super().nar(url)
        if download is None:
            return None
        return Download(
            size=download.size,
            etag=self.etag or download.etag,
            pieces=lambda start, stop: iter([FileSlice(self.fd, start, (stop or len(self.nar_bytes)) - start)]),
            file=FileSlice(self.fd, 0, self.file_size or len(self.nar_bytes)),
            release=download.release,
        )


def url_of(source: FakeSource) -> str:
    return f"/{NarUrl(PATH.hash_part, Hash.of(source.nar_bytes), 'zstd')}"


def request(source: FakeSource, *headers: str) -> bytes:
    lines = [f"GET {url_of(source)} HTTP/1.1", "Host: a", *headers, "", ""]
    return "\r\n".join(lines).encode()


@asynccontextmanager
async def served(disk_path: Path, size: int = 1000, **options: object) -> AsyncIterator[tuple[Served, KeptSource]]:
    source = KeptSource(nar_bytes=os.urandom(size))
    source.go = asyncio.Event()
    source.go.set()
    (disk_path / "nar").write_bytes(source.nar_bytes)
    source.fd = os.open(disk_path / "nar", os.O_RDONLY)
    try:
        async with Served(source, **options) as server:  # type: ignore[arg-type]  # some of its options
            yield server, source
    finally:
        os.close(source.fd)
    assert source.released == len([what for what in source.asked if what.startswith("nar ") and source.error is None])


async def ask(server: Served, source: KeptSource, *headers: str) -> Answer:
    reader, writer = await server.connect()
    writer.write(request(source, *headers))
    answer = await read_answer(reader)
    writer.close()
    return answer


@pytest.mark.parametrize("size", [1, ready_file.FIRST_BYTES, ready_file.FIRST_BYTES + 1, 5 * MIB + 3])
async def test_a_file_is_the_same_answer_as_the_frameworks_and_ready_from_then_on(disk_path: Path, size: int) -> None:
    async with served(disk_path, size) as (server, source):
        first, second = await ask(server, source), await ask(server, source)
        assert len(source.asked) == source.asked_at_once == 1
        slow = await ask(server, source, BY_FRAMEWORK)
        assert len(source.asked) > 1
        for answer in (first, second, slow):
            assert (answer.status, answer.body) == (200, source.nar_bytes)
            del answer.headers["Date"]
        assert first.headers.items() == second.headers.items() == slow.headers.items()
        await eventually(lambda: len(server.access_lines()) == 3)
        lines = server.access_lines()
        assert len({line.rpartition(" ")[0] for line in lines}) == 1, lines
        metrics = (await server.get("/metrics")).body.decode()
        assert 'harmonia_http_requests_total{method="GET",path="nar",status="200"} 3\n' in metrics


async def test_what_cannot_be_opened_at_once_the_framework_answers(disk_path: Path) -> None:
    async with served(disk_path) as (server, source):
        source.at_once = False
        answer = await ask(server, source)
        assert (answer.status, answer.body) == (200, source.nar_bytes)
        assert source.asked_at_once == 1
        assert len(server.access_lines()) == 1


async def test_what_no_source_has_is_looked_for_once_and_answered_as_the_framework_would(disk_path: Path) -> None:
    """Under a policy, and of what is pushed, each NAR that is not there was looked for twice."""
    async with served(disk_path) as (server, source):
        target = f"/{NarUrl(PATH.hash_part, Hash.of(b'another'), 'zstd')}"
        answers = []
        for headers, times in (((), 1), ((BY_FRAMEWORK,), 2)):
            reader, writer = await server.connect()
            writer.write("\r\n".join([f"GET {target} HTTP/1.1", "Host: a", *headers, "", ""]).encode())
            answers.append(await read_answer(reader))
            writer.close()
            assert len(source.asked) == times
            del answers[-1].headers["Date"]
        source.asked.clear()
        fast, slow = answers
        assert (fast.status, fast.body, fast.headers.items()) == (slow.status, slow.body, slow.headers.items())
        assert fast.status == 404
        await eventually(lambda: len(server.access_lines()) == 2)
        assert len({line.rpartition(" ")[0] for line in server.access_lines()}) == 1
        metrics = (await server.get("/metrics")).body.decode()
        assert 'harmonia_http_requests_total{method="GET",path="nar",status="404"} 2\n' in metrics
        assert re.search(r'harmonia_http_sent_bytes_total{kind="nar.zst"} [1-9]', metrics)


async def test_an_error_is_the_frameworks_answer(disk_path: Path) -> None:
    async with served(disk_path) as (server, source):
        source.error = UpstreamUnreachable("none answers")
        fast, slow = await ask(server, source), await ask(server, source, BY_FRAMEWORK)
        assert source.asked_at_once == 1
        assert (fast.status, fast.body) == (slow.status, slow.body)
        assert fast.status == 502


@pytest.mark.parametrize("broken", ["headers", "answer"])
async def test_a_client_is_cut_where_an_unforeseen_error_takes_its_answer(
    disk_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    """It waited for ever, on a connection that the server took for one that is answering."""
    async with served(disk_path, shutdown_timeout=20) as (server, source):
        if broken == "headers":
            source.etag = "\udcff"
        else:
            source.file_size = -1
        reader, writer = await server.connect()
        writer.write(request(source))
        async with asyncio.timeout(30):
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await read_answer(reader)
        writer.close()
        assert "an unforeseen error on the way to an answer" in caplog.text
        assert "Error: " in caplog.text, "with its cause"
        source.etag = source.file_size = None
        assert (await ask(server, source, BY_FRAMEWORK)).status == 200


@pytest.mark.parametrize("at_once", [False, True])
async def test_requests_sent_while_a_file_is_opened_are_answered_after_it_in_order(
    disk_path: Path, *, at_once: bool
) -> None:
    async with served(disk_path, 3 * MIB) as (server, source):
        source.at_once = at_once
        source.go.clear()
        reader, writer = await server.connect()
        writer.write(request(source))
        await eventually(lambda: source.asked_at_once)
        writer.write(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n" + request(source))
        await asyncio.sleep(0.05)
        source.go.set()
        assert (await read_answer(reader)).body == source.nar_bytes
        assert (await read_answer(reader)).body.startswith(b"harmonia-py")
        assert (await read_answer(reader)).body == source.nar_bytes
        writer.close()


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_client_that_leaves_while_its_file_is_opened_leaves_nothing_behind(
    disk_path: Path, *, at_once: bool
) -> None:
    async with served(disk_path) as (server, source):
        source.at_once = at_once
        source.go.clear()
        tasks = len(asyncio.all_tasks())
        for _ in range(10):
            _, writer = await server.connect()
            writer.write(request(source))
            await eventually(lambda: source.asked_at_once)
            writer.transport.abort()
        await eventually(lambda: source.asked_at_once == 10)
        source.go.set()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks)
        assert (await ask(server, source, BY_FRAMEWORK)).status == 200


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_request_is_answered_although_the_server_is_stopping(disk_path: Path, *, at_once: bool) -> None:
    async with served(disk_path, shutdown_timeout=20) as (server, source):
        source.at_once = at_once
        source.go.clear()
        reader, writer = await server.connect()
        writer.write(request(source))
        await eventually(lambda: source.asked_at_once)
        stopping = asyncio.create_task(server.__aexit__())
        await asyncio.sleep(0.05)
        source.go.set()
        assert (await read_answer(reader)).body == source.nar_bytes
        assert await reader.read() == b""
        await stopping
        writer.close()


async def test_a_file_of_the_cache_before_a_reload_is_not_given_after_it(disk_path: Path) -> None:
    async with served(disk_path) as (server, source):
        source.go.clear()
        asking = asyncio.create_task(ask(server, source))
        await eventually(lambda: source.asked_at_once)
        server.serving.replace(Caches(BinaryCache(cache_info=server.cache.cache_info, sources=[], secret_keys=[])))
        source.go.set()
        assert (await asking).status == 404
        assert source.released == 1
        assert (await ask(server, source)).status == 404


async def test_a_file_of_a_cache_that_is_not_public_is_opened_for_who_may_read_it_alone(disk_path: Path) -> None:
    token, line = TokenHash.generate("laptop")
    async with served(disk_path, tokens=Tokens([line])) as (server, source):
        for headers in [(), ("Authorization: Bearer wrong",)]:
            assert (await ask(server, source, *headers)).status == 401
        assert not source.asked
        allowed = await ask(server, source, f"Authorization: Bearer {token}")
        assert (allowed.status, allowed.body) == (200, source.nar_bytes)
        assert allowed.headers["Cache-Control"].startswith("private")
        assert (await ask(server, source)).status == 401


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_request_counts_once_against_the_rate_of_its_client(disk_path: Path, *, at_once: bool) -> None:
    limiter = RateLimiter(RateTable(), rate=0.001, burst=2)
    async with served(disk_path, clients=Clients(limiter=limiter)) as (server, source):
        source.at_once = at_once
        assert [(await ask(server, source)).status for _ in range(3)] == [200, 200, 429]
