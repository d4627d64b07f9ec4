"""Pins over HTTP: who may set them, where they lead, and what a page and a program are told of them."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, push
from pushing import PushServer, pushed_to
from serving import Answer


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, STORE) as server:
        yield server


async def pin(server: PushServer, name: str, *, token: str = "pinner", **fields: Any) -> Answer:
    return await server.request("PUT", f"/team/pin/{name}", json.dumps(fields).encode(), token=token)


async def told(server: PushServer, place: str, *, token: str = "reader") -> Any:
    answer = await server.get(f"{place}?json", token=token)
    assert answer.status == 200
    return json.loads(answer.body)


async def test_a_pin_leads_to_its_newest_path_that_is_published(server: PushServer) -> None:
    await push(server, GLIBC)
    assert (await pin(server, "release", path=str(REFERENCE), keep_revisions=5)).status == 200
    answer = await pin(server, "release", path=STORE.join(PATH))
    assert answer.status == 200
    assert json.loads(answer.body)["set"] is None
    leads = await server.get("/pin/release")
    assert (leads.status, leads.headers["Location"]) == (302, f"../path/{REFERENCE.hash_part}")
    await push(server, HELLO)
    leads = await server.get("/pin/release")
    assert (leads.status, leads.headers["Location"]) == (302, f"../path/{PATH.hash_part}")
    assert leads.body.decode().strip() == PATH
    assert (await server.get(f"/path/{PATH.hash_part}")).status == 200
    one = await told(server, "/pin/release", token="pinner")
    assert (one["keep_revisions"], one["keep_days"], one["keep_forever"], one["waiting"]) == (5, 0, False, None)
    assert [(row["path"], row["keeps"], row["set_by"]) for row in one["revisions"]] == [
        (PATH, True, "token pinner"),
        (REFERENCE, True, "token pinner"),
    ]


async def test_the_name_of_the_token_that_set_a_pin_is_told_only_to_who_may_pin(server: PushServer) -> None:
    """`?json` told the names of tokens to all who may read the cache, of a public one to everybody."""
    await push(server, GLIBC)
    for path in (REFERENCE, PATH):
        await pin(server, "release", path=str(path))
    for token, expected in (("reader", None), ("pusher", None), ("pinner", "token pinner")):
        one = await told(server, "/pin/release", token=token)
        [listed] = (await told(server, "/pins", token=token))["pins"]
        rows = [*one["revisions"], *(each[state] for each in (one, listed) for state in ("newest", "waiting"))]
        assert [row["set_by"] for row in rows] == [expected] * 6


async def test_a_pin_without_a_published_path_leads_nowhere_yet(server: PushServer) -> None:
    await pin(server, "release", path=str(PATH))
    assert (await server.get("/pin/release")).status == 404
    assert (await told(server, "/pin/release"))["waiting"]["path"] == PATH
    assert "waits for" in (await server.get("/pins")).body.decode()


async def test_only_what_may_pin_sets_and_removes_pins_and_only_in_its_cache(server: PushServer) -> None:
    await push(server, GLIBC)
    for token in ("reader", "pusher"):
        answer = await pin(server, "release", path=str(REFERENCE), token=token)
        assert answer.status == 403
        assert b"does not allow to pin the cache team" in answer.body
        assert (await server.request("DELETE", "/team/pin/release", token=token)).status == 403
    assert (await server.request("PUT", "/other/pin/release", b"{}", token="pinner")).status == 403
    assert (await server.request("PUT", "/team/pin/release", b"{}", token=None)).status == 401
    assert (await server.request("GET", "/team/pins", token="stranger")).status == 403
    assert (await told(server, "/pins"))["pins"] == []


async def test_a_pin_that_is_removed_is_gone(server: PushServer) -> None:
    await push(server, GLIBC)
    await pin(server, "release", path=str(REFERENCE))
    assert (await server.request("DELETE", "/team/pin/release", token="pinner")).status == 200
    assert (await server.get("/pin/release")).status == 404
    answer = await server.request("DELETE", "/team/pin/release", token="pinner")
    assert (answer.status, answer.body) == (404, b"there is no pin release in the cache team\n")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"path": 1}',
        b'{"path": "hello"}',
        b'{"path": "/nix/store/../x"}',
        b'{"path": "/other/store/26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1"}',
        b'{"path": "26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1", "keep_revisions": 0}',
        b'{"path": "26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1", "keep_revisions": 1e99}',
        b'{"path": "26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1", "keep_days": -1}',
        b'{"path": "26xbg1ndr7hbcncrlf9nhx5is2b25d13-hello-2.12.1", "keep": 3}',
    ],
)
async def test_what_is_no_pin_is_refused_in_a_line(server: PushServer, body: bytes) -> None:
    answer = await server.request("PUT", "/team/pin/release", body, token="pinner")
    assert answer.status == 400
    assert answer.body.count(b"\n") == 1
    assert (await told(server, "/pins"))["pins"] == []


async def test_a_name_that_no_pin_has_and_a_body_without_end_are_refused(server: PushServer) -> None:
    answer = await server.request("PUT", "/team/pin/.hidden", b'{"path": "x"}', token="pinner")
    assert answer.status == 400
    answer = await server.request("PUT", "/team/pin/release", b" " * 5000, token="pinner")
    assert answer.status == 413
    assert (await server.get("/pin/" + "x" * 101)).status == 404


async def test_the_page_of_pins_goes_on_where_it_ended(server: PushServer) -> None:
    await push(server, GLIBC)
    names = [f"p{number:03}" for number in range(101)]
    for name in names:
        await pin(server, name, path=str(REFERENCE))
    page = (await server.get("/pins")).body.decode()
    assert all(f'href="./pin/{name}"' in page for name in names[:100])
    assert 'href="./pins?after=p099" rel="next"' in page
    first = await told(server, "/pins")
    assert first["next"] == "p099"
    answer = await server.get(f"/pins?json&after={first['next']}")
    assert [one["name"] for one in json.loads(answer.body)["pins"]] == ["p100"]
    assert f"path/{REFERENCE.hash_part}" in page
    assert "keeps the newest" in page
