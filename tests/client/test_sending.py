"""Sending files in parts, to a server that a test holds up where it wants."""

import asyncio
import os
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from certificates import Pair, make_certificate
from lab import Lab

from harmonia_py.client.answers import SessionInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.http import HttpServer
from harmonia_py.client.made_file import PART_BYTES
from harmonia_py.client.sending import Sender
from harmonia_py.contents.encoders import Zstd
from harmonia_py.errors import SessionEnded
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.nix.store_path import StoreDir
from harmonia_py.runtime.threads import Pool, Threads
from harmonia_py.store.closure import StoreClosures
from harmonia_py.store.sqlite import SqliteStore
from harmonia_py.wiring.push_client import Silent

TIME_LIMIT: Final = 30.0


class Taker:
    """Takes parts of files.

    Attributes:
        begun: how much has come of each file, by its name.
        whole: names of files that are said to be whole.
        news: set when one of these changes.
        takes, checks: while they are clear no part is taken, and no file found to be right.
    """

    def __init__(self) -> None:
        self.begun: dict[str, int] = {}
        self.whole: set[str] = set()
        self.news = asyncio.Event()
        self.takes, self.checks = asyncio.Event(), asyncio.Event()

    async def offset(self, request: web.Request) -> web.Response:
        return web.json_response({"offset": self.begun.get(request.match_info["nar"], 0)})

    async def part(self, request: web.Request) -> web.Response:
        nar, data = request.match_info["nar"], await request.read()
        self.begun[nar] = int(request.query["offset"]) + len(data)
        self.news.set()
        await self.takes.wait()
        return web.json_response({"offset": self.begun[nar]})

    async def finish(self, request: web.Request) -> web.Response:
        self.whole.add(request.match_info["nar"])
        self.news.set()
        await self.checks.wait()
        return web.json_response({"state": "received"})

    async def wait_for_news(self) -> None:
        await self.news.wait()
        self.news.clear()


@asynccontextmanager
async def taking(taker: Taker) -> AsyncIterator[PushApi]:
    place = "/api/sessions/s/parts/{nar}"
    routes = web.get(place, taker.offset), web.patch(place, taker.part), web.post(place, taker.finish)
    async with served(*routes) as api:
        try:
            yield api
        finally:
            taker.takes.set()
            taker.checks.set()


@asynccontextmanager
async def served(*routes: web.RouteDef, pair: Pair | None = None) -> AsyncIterator[PushApi]:
    app = web.Application(client_max_size=2 * PART_BYTES)
    app.add_routes(routes)
    runner = web.AppRunner(app)
    await runner.setup()
    context = None if pair is None else ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if context is not None and pair is not None:
        context.load_cert_chain(pair.chain, pair.key)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    url = f"http{'' if pair is None else 's'}://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with HttpServer(url, None, connections=4, tls=None if pair is None else pair.client()) as server:
            yield PushApi(server, "")
    finally:
        await runner.cleanup()


class HeldStore(StoreClosures):
    """A store whose disk stops behind the first part of a file, until `goes_on` is set."""

    goes_on: threading.Event | None = None

    def nar(self, info: PathInfo) -> Iterator[bytes | memoryview]:
        read = 0
        for portion in super().nar(info):
            read += len(portion)
            if self.goes_on is not None and read > 1.5 * PART_BYTES:
                assert self.goes_on.wait(TIME_LIMIT)
            yield portion


@pytest.fixture
async def store(lab: Lab) -> AsyncIterator[HeldStore]:
    store = HeldStore(store_dir=lab.store_dir, real_store=lab.real_store)
    store.database = SqliteStore(lab.database, lab.store_dir)
    yield store
    await store.database.aclose()


async def large(store: StoreClosures, lab: Lab, tmp_path: Path, name: str) -> PathInfo:
    """A path that goes in three parts."""
    (tmp_path / name).write_bytes(os.urandom(2 * PART_BYTES + PART_BYTES // 2))
    path = lab.add(tmp_path / name)
    (info,) = (await store.closure([path])).infos([path])
    return info


async def test_a_push_that_is_cut_does_not_wait_for_the_part_on_its_way(
    store: HeldStore, lab: Lab, tmp_path: Path
) -> None:
    """A server that did not answer was waited for, two minutes past the deadline of a queue."""
    info, taker = await large(store, lab, tmp_path, "large"), Taker()
    session = SessionInfo(id="s", store_dir=lab.store_dir, max_paths=1, max_narinfos=1)
    store.goes_on = threading.Event()
    with Threads(Pool.SEND, 2) as threads:
        async with taking(taker) as api:
            sender = Sender(api, store, threads, Zstd(), Silent(), making=1)
            sending = asyncio.create_task(sender.send(session, info))
            await taker.wait_for_news()
            sending.cancel()
            store.goes_on.set()
            done, _ = await asyncio.wait([sending], timeout=TIME_LIMIT)
            assert done
            assert sending.cancelled()


async def test_the_next_file_is_made_while_the_server_checks_one(store: HeldStore, lab: Lab, tmp_path: Path) -> None:
    """The turn to compress was held for as long as the server took to check what had come."""
    infos, taker = [await large(store, lab, tmp_path, name) for name in ("one", "two")], Taker()
    session = SessionInfo(id="s", store_dir=lab.store_dir, max_paths=1, max_narinfos=1)
    taker.takes.set()
    with Threads(Pool.SEND, 2) as threads:
        async with taking(taker) as api, asyncio.timeout(TIME_LIMIT):
            sender = Sender(api, store, threads, Zstd(), Silent(), making=1)
            sending = [asyncio.create_task(sender.send(session, info)) for info in infos]
            while len(taker.whole) < len(infos):
                await taker.wait_for_news()
            taker.checks.set()
            files = await asyncio.gather(*sending)
    assert len({file.name for file in files}) == 2


class Upgrading:
    """Servers that are upgraded one by one: every other answer is that of a release without uploads."""

    def __init__(self, *answers: dict[str, str]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def answer(self, _: web.Request) -> web.Response:
        self.asked += 1
        if self.asked % 2:
            return web.Response(status=404)
        return web.json_response(self.answers.pop(0))


async def test_a_server_that_is_not_upgraded_yet_ends_no_push() -> None:
    """Its 404 was the end of the path, though the server takes the file itself."""
    session = SessionInfo(id="s", store_dir=StoreDir("/nix/store"), max_paths=1, max_narinfos=1)
    urls = Upgrading({"url": "https://bucket/x"})
    states = Upgrading({"state": "checking"}, {"state": "received"})
    place = "/api/sessions/s/uploads/{file}"
    async with served(web.get(place, urls.answer), web.post(place, states.answer)) as api:
        assert [await api.uploads.url(session, "x.nar.zst", 1) for _ in range(2)] == [None, "https://bucket/x"]
        assert [await api.uploads.finish(session, "x.nar.zst") for _ in range(4)] == [False, False, False, True]


async def test_files_are_sent_in_the_clear_only_where_the_server_is(tmp_path: Path) -> None:
    """A server with a certificate that led to a bucket without one: the file is sent to the server."""
    session = SessionInfo(id="s", store_dir=StoreDir("/nix/store"), max_paths=1, max_narinfos=1)
    good = ["http://bucket/x", "https://bucket/x"]
    # None of the last is a URL.
    urls = [*good, "ftp://bucket/x", "file:///x", "https://[", "https://::1:9000/x", "https:///x", "https://b:x/y", ""]

    async def told(api: PushApi) -> list[str | None]:
        answers.extend(urls)
        return [await api.uploads.url(session, "x.nar.zst", 1) for _ in urls]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"url": answers.pop(0)})

    answers: list[str] = []
    route, pair = web.get("/api/sessions/s/uploads/{file}", answer), make_certificate(tmp_path, "one")
    async with served(route) as api:
        assert await told(api) == [*good, *[None] * 7]
    async with served(route, pair=pair) as api:
        assert await told(api) == [None, "https://bucket/x", *[None] * 7]


class Bucket:
    """A server that leads past itself, to a bucket, and ends the session once the first file is there.

    Attributes:
        files: names of files that were put, in their order.
        finished: how often the server was told of one.
    """

    def __init__(self) -> None:
        self.files: list[str] = []
        self.finished = 0

    async def url(self, request: web.Request) -> web.Response:
        return web.json_response({"url": f"http://{request.host}/bucket/{request.match_info['file']}"})

    async def put(self, request: web.Request) -> web.Response:
        async for _ in request.content.iter_any():
            pass
        self.files.append(request.match_info["file"])
        return web.Response()

    async def finish(self, _: web.Request) -> web.Response:
        self.finished += 1
        return web.Response(status=410) if self.finished == 1 else web.json_response({"state": "received"})


async def test_a_session_that_ends_behind_an_upload_is_no_fault_of_the_bucket(
    store: HeldStore, lab: Lab, tmp_path: Path
) -> None:
    """All that came later would have gone through the server."""
    info, bucket, place = await large(store, lab, tmp_path, "large"), Bucket(), "/api/sessions/s/uploads/{file}"
    session = SessionInfo(
        id="s", store_dir=lab.store_dir, max_paths=1, max_narinfos=1, past_server=range(1, 100 * PART_BYTES)
    )
    routes = web.get(place, bucket.url), web.post(place, bucket.finish), web.put("/bucket/{file}", bucket.put)
    with Threads(Pool.SEND, 2) as threads:
        async with served(*routes) as api, HttpServer("http://127.0.0.1", None) as elsewhere:
            sender = Sender(api, store, threads, Zstd(), Silent(), making=1, elsewhere=elsewhere)
            with pytest.raises(SessionEnded):
                await sender.send(session, info)
            sent = await sender.send(session, info)
    assert bucket.files == [sent.name, sent.name]
    assert bucket.finished == 2
