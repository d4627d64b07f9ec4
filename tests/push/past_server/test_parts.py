"""Files that come in parts past the server, as a client sees the requests: honest ones, and those of an attacker."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, Final

import pytest
from pushed_paths import PATH, REFERENCE, STORE, Pushed, pushed
from pushing import PushServer, pushed_to
from s3_double import Fault, S3Double
from trees import File
from waiting import wait_until

from harmonia_py.catalog.caches import CacheSettings
from harmonia_py.push.past_server import parts
from harmonia_py.push.receiving import MAX_FILE_SIZE
from harmonia_py.storage.s3.multipart import Multipart
from harmonia_py.storage.s3.settings import S3Settings

PART: Final = 5 * 1024 * 1024
LARGE: Final = pushed(REFERENCE, File(Random(1).randbytes(2 * PART + 100)))
OTHER: Final = pushed(PATH, File(Random(2).randbytes(2 * PART + 100)))


def settings(double: S3Double) -> S3Settings:
    return double.settings("kept", public_endpoint=double.endpoint, redirect_uploads_from=1, part_size=PART)


class Client:
    """A session of a client that sends in parts."""

    def __init__(self, server: PushServer, session: str, token: str = "pusher") -> None:
        self.server = server
        self.session = session
        self.token = token

    @classmethod
    async def begun(cls, server: PushServer, token: str = "pusher") -> "Client":
        answer = await server.request("POST", "/team/api/sessions", b"", token=token)
        return cls(server, json.loads(answer.body)["session"], token)

    async def ask(self, method: str, what: Pushed, query: str = "", body: Any = None) -> tuple[int, Any]:
        """Status, and the answer where it is one."""
        name = what.claim.url.removeprefix("nar/")
        place = f"/team/api/sessions/{self.session}/uploads/{name}/parts{query}"
        data = b"" if body is None else json.dumps(body).encode()
        answer = await self.server.request(method, place, data, token=self.token)
        return answer.status, json.loads(answer.body) if answer.status == 200 else answer.body.decode()

    async def begin(self, what: Pushed, size: int | None = None) -> str:
        status, told = await self.ask("POST", what, body={"size": size or len(what.data)})
        assert status == 200, told
        assert told["part_size"] == PART
        return str(told["upload"])

    async def urls(self, what: Pushed, upload: str, first: int = 1, count: int = 10) -> list[str]:
        status, told = await self.ask("GET", what, f"?upload={upload}&first={first}&count={count}")
        assert status == 200, told
        return list(told["urls"])

    async def send(self, what: Pushed, upload: str, data: bytes | None = None) -> list[str]:
        """Send all parts; their tags."""
        data = what.data if data is None else data
        urls = await self.urls(what, upload)
        return [await put(url, data[PART * i : PART * (i + 1)]) for i, url in enumerate(urls)]

    async def finish(self, what: Pushed, upload: str, etags: list[str]) -> tuple[int, Any]:
        return await self.ask("PUT", what, body={"upload": upload, "etags": etags})

    async def end(self) -> None:
        answer = await self.server.request("DELETE", f"/team/api/sessions/{self.session}", b"", token=self.token)
        assert answer.status == 200


async def put(url: str, data: bytes) -> str:
    """The tag of what was sent; empty when it was not taken."""

    def put() -> str:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data, method="PUT"), timeout=30) as sent:
                return str(sent.headers["ETag"])
        except urllib.error.HTTPError as refused:
            with refused:
                return ""

    return await asyncio.to_thread(put)


async def publish(server: PushServer, what: Pushed) -> int:
    return (await server.put(f"/{what.path.hash_part}.narinfo", what.narinfo)).status


async def until(condition: Callable[[], object]) -> None:
    await asyncio.to_thread(wait_until, condition, "it never comes")


def pending(double: S3Double) -> list[str]:
    return [*(key for key in double.objects if "/.p" in key), *(one.key for one in double.uploads.values())]


async def test_a_file_in_parts_is_published_and_a_request_that_is_made_again_is_harmless(
    tmp_path: Path, double: S3Double
) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        assert len(await client.urls(LARGE, upload, 3, 10)) == 1, "as many as there are"
        etags = await client.send(LARGE, upload)
        assert LARGE.claim.url not in double.objects
        for _ in range(2):
            assert await client.finish(LARGE, upload, etags) == (200, {"state": "received"})
        assert not pending(double)
        assert await publish(server, LARGE) == 200
        assert double.objects[f"kept/{LARGE.claim.url}"].data == LARGE.data
        assert list(double.objects[f"kept/{LARGE.claim.url}"].headers.values()) == ["application/x-nix-nar"]


async def test_a_file_that_is_longer_than_one_request_copies_is_kept_by_several(
    tmp_path: Path, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Multipart.__init__, "__kwdefaults__", {"max_copy": PART})
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        assert await client.finish(LARGE, upload, await client.send(LARGE, upload)) == (200, {"state": "received"})
        assert sum("nar/" in line and "partNumber=" in line for line in double.seen) == 3
        assert double.objects[f"kept/{LARGE.claim.url}"].data == LARGE.data
        assert not pending(double)


async def test_urls_that_are_still_good_overwrite_nothing_that_was_published(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        urls = await client.urls(LARGE, upload)
        etags = await client.send(LARGE, upload)
        assert await client.finish(LARGE, upload, etags) == (200, {"state": "received"})
        assert await publish(server, LARGE) == 200
        assert [await put(url, b"something else") for url in urls] == ["", "", ""]
        assert double.objects[f"kept/{LARGE.claim.url}"].data == LARGE.data


async def test_other_bytes_than_those_of_the_name_are_refused_and_forgotten(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        etags = await client.send(LARGE, upload, OTHER.data)
        assert (await client.finish(LARGE, upload, etags))[0] == 400
        assert not pending(double)
        assert (await client.finish(LARGE, upload, etags))[0] == 409, "nothing is left of it"
        assert f"kept/{LARGE.claim.url}" not in double.objects


@pytest.mark.parametrize(
    "wrong", ["another tag", "one missing", "one too many", "none", "an endless tag", "another order"]
)
async def test_parts_that_were_not_sent_like_this_become_nothing(tmp_path: Path, double: S3Double, wrong: str) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        etags = await client.send(LARGE, upload)
        named = {
            "another tag": [*etags[:2], '"00000000000000000000000000000000"'],
            "one missing": etags[:2],
            "one too many": [*etags, etags[0]],
            "none": [],
            "an endless tag": [*etags[:2], "x" * 10_000],
            "another order": etags[::-1],
        }[wrong]
        assert (await client.finish(LARGE, upload, named))[0] == 400
        assert not pending(double)
        assert f"kept/{LARGE.claim.url}" not in double.objects


async def test_a_file_of_another_length_than_its_client_said_is_refused_before_it_is_read(
    tmp_path: Path, double: S3Double
) -> None:
    """The double, unlike a real bucket, takes a part of any length."""
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(OTHER)
        urls = await client.urls(OTHER, upload)
        etags = [await put(url, bytes(PART)) for url in urls]
        status, told = await client.finish(OTHER, upload, etags)
        assert (status, told) == (400, f"the parts have {3 * PART} bytes, not {len(OTHER.data)}\n")
        assert not pending(double)


async def test_a_part_that_never_came_is_missed(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        urls = await client.urls(LARGE, upload)
        first, last = await put(urls[0], LARGE.data[:PART]), await put(urls[2], LARGE.data[2 * PART :])
        assert (await client.finish(LARGE, upload, [first, first, last]))[0] == 400
        assert not pending(double)


async def test_an_upload_is_good_in_its_session_and_for_its_file_alone(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        ours, theirs, others = [await Client.begun(server, token) for token in ("pusher", "pusher", "promoter")]
        upload = await ours.begin(LARGE)
        etags = await ours.send(LARGE, upload)
        for client, what in ((theirs, LARGE), (others, LARGE), (ours, OTHER)):
            assert [await put(url, b"x" * PART) for url in await client.urls(what, upload)] == ["", "", ""]
            assert (await client.finish(what, upload, etags))[0] == 409
            assert (await client.ask("DELETE", what, f"?upload={upload}"))[0] == 200, "and nothing happens"
        assert (await Client(server, ours.session, "promoter").finish(LARGE, upload, etags))[0] == 410
        assert await ours.finish(LARGE, upload, etags) == (200, {"state": "received"})


async def test_a_client_cannot_make_its_file_longer_than_it_said(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE, PART + 1)
        size, rest = upload.split(".", 1)
        assert int(size) == PART + 1
        for changed in (f"{len(LARGE.data)}.{rest}", f"{MAX_FILE_SIZE}.{MAX_FILE_SIZE}.{rest.split('.', 1)[1]}"):
            etags = [await put(url, LARGE.data[:PART]) for url in await client.urls(LARGE, changed)]
            assert not any(etags), "the bucket knows no such upload"
            assert (await client.finish(LARGE, changed, ["x"] * len(etags)))[0] == 409


@pytest.mark.parametrize("size", [-1, 0, 1, PART, MAX_FILE_SIZE + 1, 10**30, "many", None])
async def test_what_does_not_come_in_parts_begins_no_upload(tmp_path: Path, double: S3Double, size: Any) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        status, told = await client.ask("POST", LARGE, body={"size": size})
        assert (status, told) == (200, {"upload": None}) or status in (400, 404, 413)
        assert not double.uploads


async def test_a_file_for_which_there_is_no_room_begins_no_upload(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, CacheSettings(max_size=PART), s3=settings(double)) as server:
        client = await Client.begun(server)
        assert (await client.ask("POST", LARGE, body={"size": len(LARGE.data)}))[0] == 413
        assert not double.uploads


async def test_questions_that_make_no_sense_are_refused(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        for query in (
            *("", "?upload=", "?upload=x&first=1&count=1", f"?upload={upload}", f"?upload={upload}&first=1"),
            *(f"?upload={upload}&first=0&count=1", f"?upload={upload}&first=4&count=1"),
            *(f"?upload={upload}&first=1&count=0", f"?upload={upload}&first=1&count=101"),
            *(f"?upload={upload}&first=-1&count=1", f"?upload={'9' * 2000}&first=1&count=1"),
            f"?upload=1.1.{'0' * 32}.{'x' * 1100}&first=1&count=1",
        ):
            assert (await client.ask("GET", LARGE, query))[0] in (400, 404, 422), query
        assert (await client.ask("PUT", LARGE, body={"upload": "x", "etags": []}))[0] == 400
        assert (await client.ask("PUT", LARGE, body=[]))[0] == 400


async def test_an_upload_that_is_given_up_is_gone(tmp_path: Path, double: S3Double) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        etags = await client.send(LARGE, upload)
        for _ in range(2):
            assert (await client.ask("DELETE", LARGE, f"?upload={upload}"))[0] == 200
        assert not pending(double)
        assert (await client.finish(LARGE, upload, etags))[0] == 409


async def test_a_session_has_a_bounded_number_of_uploads_under_way(
    tmp_path: Path, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that was told to come later asked for two minutes, and gave the path up: further files come here."""
    monkeypatch.setattr(parts, "_MAX_OPEN", 2)
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        uploads = [await client.begin(what) for what in (LARGE, OTHER)]
        assert await client.ask("POST", LARGE, body={"size": len(LARGE.data)}) == (200, {"upload": None})
        await client.ask("DELETE", LARGE, f"?upload={uploads[0]}")
        await client.begin(LARGE)


async def test_a_principal_has_a_bounded_number_of_uploads_under_way(
    tmp_path: Path, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any number of sessions, each with as many uploads as a session may have."""
    monkeypatch.setattr(parts, "_MAX_OPEN_OF_PRINCIPAL", 2)
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        one, two, three = [await Client.begun(server) for _ in range(3)]
        await one.begin(LARGE)
        await two.begin(LARGE)
        assert await three.ask("POST", LARGE, body={"size": len(LARGE.data)}) == (200, {"upload": None})
        await (await Client.begun(server, "promoter")).begin(LARGE)
        await two.end()
        await until(lambda: len(double.uploads) == 2)
        await three.begin(LARGE)


async def test_uploads_under_way_have_their_room(tmp_path: Path, double: S3Double) -> None:
    """Each was held against the limit alone: eight times the room of the cache was in the bucket."""
    async with pushed_to(tmp_path, STORE, CacheSettings(max_size=3 * PART), s3=settings(double)) as server:
        one, two, other = [await Client.begun(server, token) for token in ("pusher", "pusher", "promoter")]
        upload = await one.begin(LARGE)
        for client, what in ((one, OTHER), (two, LARGE), (two, OTHER)):
            assert await client.ask("POST", what, body={"size": len(what.data)}) == (200, {"upload": None})
        assert len(double.uploads) == 1
        await two.begin(OTHER, PART + 1)  # as small as this it has room
        await other.begin(LARGE)  # no principal takes the room of another by beginning what it never sends
        assert await one.finish(LARGE, upload, await one.send(LARGE, upload)) == (200, {"state": "received"})


async def test_uploads_go_with_the_end_of_their_session_and_those_of_others_stay(
    tmp_path: Path, double: S3Double
) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        ends, goes_on = await Client.begun(server), await Client.begun(server)
        upload = await ends.begin(LARGE)
        etags = await ends.send(LARGE, upload)
        await ends.begin(OTHER)
        stays = await goes_on.begin(LARGE)
        await ends.end()
        await until(lambda: len(double.uploads) == 1)
        assert (await ends.finish(LARGE, upload, etags))[0] == 410
        assert await goes_on.finish(LARGE, stays, await goes_on.send(LARGE, stays)) == (200, {"state": "received"})


async def test_uploads_of_sessions_that_are_over_go_at_the_next_start(
    tmp_path: Path, double: S3Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        await client.begin(LARGE)
    double.seen.clear()
    async with pushed_to(tmp_path, STORE, s3=settings(double)):
        await until(lambda: any(line.startswith("GET ?") and "uploads=" in line for line in double.seen))
    assert double.uploads, "its session lives"
    monkeypatch.setattr(parts, "SESSION_SECONDS", -10)
    async with pushed_to(tmp_path, STORE, s3=settings(double)):
        await until(lambda: not double.uploads)


@pytest.mark.parametrize(
    ("method", "part", "fault"),
    [
        ("POST", "uploadId", Fault.LOST),  # the parts are put together, and the server never reads the answer
        ("POST", "uploadId", Fault.SLOW_DOWN),
        ("GET", ".pending/", Fault.CUT),
        ("PUT", "nar/", Fault.LOST),
        ("POST", "delete", Fault.ERROR),
    ],
)
async def test_a_bucket_that_fails_once_loses_nothing(
    tmp_path: Path, double: S3Double, method: str, part: str, fault: Fault
) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        etags = await client.send(LARGE, upload)
        double.fault(method, part, fault)
        assert await client.finish(LARGE, upload, etags) == (200, {"state": "received"})
        assert not double.faults_left()
        assert not pending(double)


@pytest.mark.parametrize(
    "faults", [("PUT", "nar/", Fault.ERROR, 3), ("POST", "uploadId", Fault.EXPIRED, 1)], ids=["fails", "key"]
)
async def test_a_bucket_that_fails_for_a_while_is_asked_again_by_the_client(
    tmp_path: Path, double: S3Double, faults: tuple[str, str, Fault, int]
) -> None:
    async with pushed_to(tmp_path, STORE, s3=settings(double)) as server:
        client = await Client.begun(server)
        upload = await client.begin(LARGE)
        etags = await client.send(LARGE, upload)
        method, part, fault, times = faults
        double.fault(method, part, fault, times=times)
        assert (await client.finish(LARGE, upload, etags))[0] == 503
        assert await client.finish(LARGE, upload, etags) == (200, {"state": "received"})
        assert double.objects[f"kept/{LARGE.claim.url}"].data == LARGE.data


async def test_a_server_that_cannot_sign_for_parts_says_so(tmp_path: Path) -> None:
    async with pushed_to(tmp_path, STORE) as server:
        client = await Client.begun(server)
        assert await client.ask("POST", LARGE, body={"size": 10**9}) == (200, {"upload": None})
        assert (await client.ask("GET", LARGE, "?upload=x&first=1&count=1"))[0] == 409
