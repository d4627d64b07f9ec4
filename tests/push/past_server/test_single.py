"""Files that clients send straight to a bucket, taken from there: room for them, and a bucket that fails meanwhile."""

import asyncio
import json
import urllib.request
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from pushed_paths import GLIBC, HELLO, STORE, Pushed
from pushing import PushServer, pushed_to
from s3_double import Fault, S3Double
from serving import Answer

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.push import checking
from harmonia_py.push.checking import Checks
from harmonia_py.push.receiving import MAX_FILE_SIZE
from harmonia_py.storage.s3.settings import MAX_REQUEST, S3Settings
from harmonia_py.storage.s3.uploads import SeizedObject


async def send(server: PushServer, what: Pushed) -> None:
    """Send a file past the server."""
    headers = {"Expect": "100-continue", "Content-Length": str(len(what.data))}
    answer = await server.put(what.place, b"", headers)
    assert answer.status == 307
    await asyncio.to_thread(upload, answer.headers["location"], what.data)


def upload(url: str, data: bytes) -> None:
    request = urllib.request.Request(url, data, method="PUT")
    request.add_header("Content-Type", "application/x-nix-nar")
    with urllib.request.urlopen(request, timeout=30) as uploaded:
        assert uploaded.status == 200


async def narinfo(server: PushServer, what: Pushed) -> int:
    return (await server.put(f"/{what.path.hash_part}.narinfo", what.narinfo)).status


async def test_a_push_is_done_although_its_upload_cannot_be_removed_at_once(tmp_path: Path, double: S3Double) -> None:
    """The path was published, and its client was told 503."""
    s3 = double.settings(public_endpoint=double.endpoint, redirect_uploads_from=0)
    async with pushed_to(tmp_path, STORE, s3=s3) as server:
        await send(server, GLIBC)
        double.fault("POST", "delete", Fault.ERROR, times=1000)
        assert await narinfo(server, GLIBC) == 200
        assert (await server.get(f"/{GLIBC.path.hash_part}.narinfo")).status == 200


async def test_files_that_are_taken_from_the_bucket_at_once_have_room_together(
    tmp_path: Path, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each had room alone: any number that came at the same moment went into a cache that had room for one."""
    inside, gate, keep = asyncio.Event(), asyncio.Event(), SeizedObject.keep

    async def held(self: SeizedObject, key: BlobKey) -> None:
        inside.set()
        await gate.wait()
        await keep(self, key)

    monkeypatch.setattr(SeizedObject, "keep", held)
    s3 = double.settings(public_endpoint=double.endpoint, redirect_uploads_from=0)
    settings = CacheSettings(max_size=max(len(GLIBC.data), len(HELLO.data)))
    async with pushed_to(tmp_path, STORE, settings, s3=s3) as server:
        await send(server, HELLO)
        await send(server, GLIBC)
        first = asyncio.create_task(narinfo(server, GLIBC))
        async with asyncio.timeout(30):
            await inside.wait()
            second = asyncio.create_task(narinfo(server, HELLO))
            assert await second == 413, "the first one has room, and is not yet kept"
            gate.set()
            assert await first == 200
        assert HELLO.place.removeprefix("/") not in double.objects


class Session:
    """A session of our own client, begun."""

    def __init__(self, server: PushServer, told: dict[str, Any]) -> None:
        self.server = server
        self.told = told

    @classmethod
    async def begun(cls, server: PushServer) -> "Session":
        return cls(server, json.loads((await server.request("POST", "/team/api/sessions", b"")).body))

    async def ask(self, method: str, what: Pushed, query: str = "", token: str = "pusher") -> Answer:
        name = what.claim.url.removeprefix("nar/")
        place = f"/team/api/sessions/{self.told['session']}/uploads/{name}{query}"
        return await self.server.request(method, place, b"", token=token)

    async def send(self, what: Pushed, data: bytes) -> None:
        url = json.loads((await self.ask("GET", what, f"?size={len(data)}")).body)["url"]
        await asyncio.to_thread(upload, url, data)


def past(double: S3Double) -> S3Settings:
    return double.settings(public_endpoint=double.endpoint, redirect_uploads_from=1)


async def test_a_session_says_which_files_go_past_the_server_and_takes_those_in_that_have_gone(
    tmp_path: Path, double: S3Double
) -> None:
    async with pushed_to(tmp_path, STORE, s3=past(double)) as server:
        session = await Session.begun(server)
        assert session.told["uploads"] == {
            "min_size": 1,
            "max_size": MAX_REQUEST,
            "parts": {"min_size": 8 * 1024**2 + 1, "max_size": MAX_FILE_SIZE},
        }
        absent = await session.ask("POST", GLIBC)
        assert (absent.status, absent.body) == (409, b"the file is not where it should have been sent\n")
        await session.send(GLIBC, GLIBC.data)
        for _ in range(2):
            answer = await session.ask("POST", GLIBC)
            assert (answer.status, json.loads(answer.body)) == (200, {"state": "received"})
        assert [key for key in double.objects if key.startswith(".")] == [".catalog"], "nothing pending is left"
        assert await narinfo(server, GLIBC) == 200


async def test_a_file_that_two_sessions_wait_for_stays_for_each(
    tmp_path: Path, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session that had joined the check of the other heard `received`; when that one ended, its file was gone."""
    inside, joined, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()
    keep, is_done = SeizedObject.keep, Checks.is_done

    async def held(self: SeizedObject, key: BlobKey) -> None:
        inside.set()
        await gate.wait()
        await keep(self, key)

    async def seen(self: Checks, key: str, check: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        if inside.is_set():
            joined.set()
        return await is_done(self, key, check)

    monkeypatch.setattr(SeizedObject, "keep", held)
    monkeypatch.setattr(Checks, "is_done", seen)
    async with pushed_to(tmp_path, STORE, s3=past(double)) as server, asyncio.timeout(30):
        first, second = [await Session.begun(server) for _ in range(2)]
        await first.send(GLIBC, GLIBC.data)
        begins = asyncio.create_task(first.ask("POST", GLIBC))
        await inside.wait()
        joins = asyncio.create_task(second.ask("POST", GLIBC))
        await joined.wait()
        gate.set()
        for answer in (await begins, await joins):
            assert json.loads(answer.body) == {"state": "received"}
        place = f"/team/api/sessions/{first.told['session']}/finish"
        ended = await server.request("POST", place, json.dumps({"roots": []}).encode())
        assert ended.status == 200, ended
        place = f"/team/api/sessions/{second.told['session']}/publish"
        told = await server.request("POST", place, json.dumps({"narinfos": [GLIBC.narinfo.decode()]}).encode())
        assert json.loads(told.body)["paths"][0]["state"] == "published"


async def test_a_client_hears_that_its_file_is_being_checked_and_asks_again(
    tmp_path: Path, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, keep, kept = asyncio.Event(), SeizedObject.keep, 0

    async def held(self: SeizedObject, key: BlobKey) -> None:
        nonlocal kept
        kept += 1
        await gate.wait()
        await keep(self, key)

    monkeypatch.setattr(SeizedObject, "keep", held)
    async with pushed_to(tmp_path, STORE, s3=past(double)) as server, asyncio.timeout(30):
        session = await Session.begun(server)
        await session.send(GLIBC, GLIBC.data)
        with monkeypatch.context() as patch:
            patch.setattr(checking, "_ANSWER_SECONDS", 0.0)
            for _ in range(2):
                answer = await session.ask("POST", GLIBC)
                assert (answer.status, json.loads(answer.body)) == (200, {"state": "checking"})
        gate.set()
        assert json.loads((await session.ask("POST", GLIBC)).body) == {"state": "received"}
        assert kept == 1, "one check for all that ask"


async def test_other_bytes_than_those_of_the_name_are_refused_and_forgotten(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=past(double)) as server:
        session = await Session.begun(server)
        await session.send(GLIBC, GLIBC.data[::-1])
        assert (await session.ask("POST", GLIBC)).status == 400
        assert list(double.objects) == [".catalog"]
        assert (await session.ask("POST", GLIBC)).status == 409


async def test_no_url_is_given_for_what_is_not_taken(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=past(double)) as server:
        session = await Session.begun(server)
        for query in ("", "?size=-1", "?size=x", f"?size={10**19}"):
            assert (await session.ask("GET", GLIBC, query)).status == 404
        assert (await session.ask("GET", GLIBC, "?size=10", token="reader")).status == 403
        assert json.loads((await session.ask("GET", GLIBC, f"?size={MAX_REQUEST + 1}")).body) == {"url": None}


async def test_a_client_gets_no_url_on_the_host_of_the_cache(tmp_path: Path, double: S3Double) -> None:
    """A netrc has a password for that host, which the bucket would be shown."""
    endpoint = double.endpoint.replace("127.0.0.1", "localhost")
    s3 = double.settings(public_endpoint=endpoint, redirect_uploads_from=1)
    async with pushed_to(tmp_path, STORE, s3=s3) as server:
        session = await Session.begun(server)
        assert json.loads((await session.ask("GET", GLIBC, "?size=10")).body) == {"url": None}


async def test_a_server_whose_files_are_on_its_disk_says_so(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        session = await Session.begun(server)
        assert session.told["uploads"] is None
        assert json.loads((await session.ask("GET", GLIBC, "?size=10")).body) == {"url": None}
        assert (await session.ask("POST", GLIBC)).status == 409
