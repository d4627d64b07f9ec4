"""`/api/sessions`: what the end of a push asks for, and what it is refused."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, push
from pushing import PushServer, pushed_to
from serving import Answer

from harmonia_py.web.api.sessions import MAX_PINS


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
