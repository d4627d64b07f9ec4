"""`/api/sessions`: what a push is told, from its questions to its end, and what it is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, Pushed, push, pushed
from pushing import PushServer, pushed_to
from serving import TIME_LIMIT, Answer, read_answer
from trees import File, Folder

from harmonia_py.catalog.uploads import SESSION_SECONDS
from harmonia_py.nix.store_path import StorePath
from harmonia_py.push.sessions import MAX_ASKED
from harmonia_py.web.api.sessions import MAX_PINS, MAX_PUBLISHED


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, STORE) as server:
        yield server


async def post(server: PushServer, place: str, body: Any = None) -> Answer:
    data = b"" if body is None else json.dumps(body).encode()
    return await server.request("POST", f"/team/api/sessions{place}", data)


async def begin(server: PushServer) -> str:
    session: str = json.loads((await post(server, "")).body)["session"]
    return session


async def test_a_push_ends_when_its_roots_are_seen_and_names_those_that_are_not(server: PushServer) -> None:
    session = await begin(server)
    for one in (GLIBC, HELLO):
        assert (await push(server, one)).status == 200
    roots = [PATH.hash_part, REFERENCE.hash_part]
    absent = "0" * 32
    told = json.loads((await post(server, f"/{session}/finish", {"roots": [*roots, absent]})).body)
    assert told == {"missing": [absent]}
    assert json.loads((await post(server, f"/{session}/finish", {"roots": roots})).body) == {"missing": [], "pins": []}
    assert (await post(server, f"/{session}/finish", {"roots": roots})).status == 410, "it has ended"


async def test_a_deeply_nested_body_is_refused_in_a_line(server: PushServer) -> None:
    """It was a 500 and a traceback."""
    body = b'{"x": ' + b"[" * 5_000
    answer = await server.request("POST", f"/team/api/sessions/{await begin(server)}/finish", body)
    assert (answer.status, answer.body.count(b"\n")) == (400, 1)


async def test_a_push_sets_no_more_pins_than_a_request_has_time_for(server: PushServer) -> None:
    """A body of 8 MiB could name a hundred thousand, each of which is a transaction."""
    session = await begin(server)
    pins = [{"name": f"p{number}", "path": PATH} for number in range(MAX_PINS + 1)]
    refused = await post(server, f"/{session}/finish", {"pins": pins})
    assert (refused.status, refused.body) == (422, f"more than {MAX_PINS} pins at the end of one push\n".encode())


async def ask(server: PushServer, session: str, place: str, body: Any) -> Any:
    answer = await post(server, f"/{session}/{place}", body)
    assert answer.status == 200, answer.body
    return json.loads(answer.body)


async def send(server: PushServer, session: str, what: Pushed) -> None:
    place = f"/team/api/sessions/{session}/nars{what.place.removeprefix('/nar')}"
    assert (await server.request("PUT", place, what.data)).status == 200


async def test_a_session_tells_what_it_has_brought_so_far(server: PushServer) -> None:
    session = await begin(server)

    async def progress() -> dict[str, Any]:
        told: dict[str, Any] = json.loads((await server.request("GET", f"/team/api/sessions/{session}")).body)
        assert told.pop("session") == session
        assert told.pop("lease_seconds") == SESSION_SECONDS
        return told

    nothing = dict.fromkeys(("received", "received_size", "present", "published", "waiting"), 0)
    assert await progress() == nothing
    await send(server, session, HELLO)
    assert await progress() == nothing | {"received": 1, "received_size": len(HELLO.data)}
    await ask(server, session, "publish", {"narinfos": [HELLO.narinfo.decode()]})
    assert (await progress())["waiting"] == 1
    await send(server, session, GLIBC)
    await ask(server, session, "publish", {"narinfos": [GLIBC.narinfo.decode()]})
    assert await progress() == nothing | {"present": 2, "published": 2}


async def test_each_claim_gets_an_answer_of_its_own(server: PushServer) -> None:
    session = await begin(server)
    again = pushed(REFERENCE, Folder({b"lib": File(b"built again")}))
    for what in (GLIBC, HELLO, again):
        await send(server, session, what)
    gone = pushed(StorePath(f"{'3' * 32}-gone"), File(b"never sent"))
    lie = HELLO.claiming(nar_size=1)
    claims = (HELLO.narinfo, b"no narinfo", gone.narinfo, lie.narinfo, GLIBC.narinfo, again.narinfo)
    told = (await ask(server, session, "publish", {"narinfos": [claim.decode() for claim in claims]}))["paths"]
    waits, unread, absent, lies, published, second = told
    assert waits == {"path": PATH, "state": "waiting", "missing": [REFERENCE.hash_part]}
    assert (unread["path"], unread["state"]) == ("no narinfo", "refused")
    assert (absent["path"], absent["state"]) == (gone.path, "absent")
    assert (lies["path"], lies["state"], lies["reason"][:7]) == (PATH, "refused", "NarSize")
    assert published == {"path": REFERENCE, "state": "published"}
    # Another build of it stays, whose NAR this is.
    assert second == published | {"first": str(GLIBC.claim.path_info.nar_hash)}


@pytest.mark.parametrize(
    ("place", "body", "words"),
    [
        ("missing", {"paths": ["0" * 32] * (MAX_ASKED + 1)}, f"more than {MAX_ASKED} paths in one question"),
        ("publish", {"narinfos": [""] * (MAX_PUBLISHED + 1)}, f"more than {MAX_PUBLISHED} narinfos at once"),
    ],
)
async def test_a_question_is_no_longer_than_the_server_told_when_the_session_began(
    server: PushServer, place: str, body: Any, words: str
) -> None:
    refused = await post(server, f"/{await begin(server)}/{place}", body)
    assert (refused.status, refused.body) == (422, f"{words}\n".encode())


async def test_a_token_that_may_not_pin_ends_no_push_with_a_pin(server: PushServer) -> None:
    session = await begin(server)
    await push(server, GLIBC)
    end = {"roots": [REFERENCE.hash_part], "pins": [{"name": "release", "path": REFERENCE}]}
    refused = await post(server, f"/{session}/finish", end)
    assert (refused.status, b"that is `--allow pin`" in refused.body) == (403, True)
    assert await ask(server, session, "finish", end | {"pins": []}) == {"missing": [], "pins": []}


class Parts:
    """A file that goes to a server in parts."""

    def __init__(self, server: PushServer, session: str, what: Pushed) -> None:
        self.server, self.what = server, what
        self.place = f"/team/api/sessions/{session}/parts/{what.claim.path_info.nar_hash.nix32}.nar"

    async def send(self, offset: int, end: int) -> Answer:
        return await self.server.request("PATCH", f"{self.place}?offset={offset}", self.what.data[offset:end])

    async def finish(self, file: Pushed) -> Answer:
        whole = {"file": file.place.removeprefix("/nar/"), "size": len(self.what.data)}
        return await self.server.request("POST", self.place, json.dumps(whole).encode())

    async def offset(self) -> int:
        return int(json.loads((await self.server.request("GET", self.place)).body)["offset"])


async def test_parts_are_taken_in_their_order_and_twice_and_make_the_file_they_are_said_to_make(
    server: PushServer,
) -> None:
    large = pushed(REFERENCE, File(Random(7).randbytes(4_200_000)))
    parts = Parts(server, await begin(server), large)
    gap = await parts.send(5, 10)
    assert (gap.status, await parts.offset()) == (409, 0)
    for offset, end, expected in ((0, 3_000_000, 3_000_000), (0, 10, 3_000_000), (0, 4_000_000, 4_000_000)):
        assert json.loads((await parts.send(offset, end)).body) == {"offset": expected}
    assert (await parts.finish(large)).status == 409, "it is not whole"
    assert (await parts.send(4_000_000, len(large.data))).status == 200
    refused = await parts.finish(HELLO)
    assert (refused.status, b"it has another FileHash" in refused.body) == (400, True)
    assert await parts.offset() == 0, "bytes that no file has are of no use"
    for offset, end in ((0, 3_000_000), (0, 4_000_000), (4_000_000, len(large.data))):
        await parts.send(offset, end)
    assert json.loads((await parts.finish(large)).body) == {"state": "received"}
    assert (await server.put(f"/{REFERENCE.hash_part}.narinfo", large.narinfo)).status == 200


async def test_one_request_at_a_time_adds_to_a_file(server: PushServer) -> None:
    """The other is asked to come again, and what is on its way is not mixed with it."""
    parts, data = Parts(server, await begin(server), GLIBC), GLIBC.data
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        head = f"PATCH {parts.place}?offset=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer pusher\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data[:10])
        async with asyncio.timeout(TIME_LIMIT):
            while (await server.node.sizes.size(None)).size < 10:
                pass  # what has been sent has not come
            refused = await parts.send(0, 10)
            assert (refused.status, refused.headers["Retry-After"] is not None) == (503, True)
            writer.write(data[10:])
            assert json.loads((await read_answer(reader, "PATCH")).body) == {"offset": len(data)}
    finally:
        writer.close()
    assert json.loads((await parts.finish(GLIBC)).body) == {"state": "received"}
