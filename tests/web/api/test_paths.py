"""Deletion over HTTP: only by what may delete, never of what something references, and seen at once."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pushed_paths import GLIBC, HELLO, PATH, REFERENCE, STORE, push
from pushing import PushServer, pushed_to
from serving import Answer

from harmonia_py.nix.store_path import StorePath


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, STORE) as server:
        await push(server, GLIBC)
        await push(server, HELLO)
        yield server


async def delete(server: PushServer, path: StorePath, query: str = "", *, token: str = "cleaner") -> Answer:
    return await server.request("DELETE", f"/team/api/paths/{path.hash_part}{query}", token=token)


async def status(server: PushServer, path: StorePath) -> int:
    return (await server.get(f"/{path.hash_part}.narinfo")).status


async def test_what_is_referenced_stays_and_the_answer_says_by_what(server: PushServer) -> None:
    answer = await delete(server, REFERENCE, "?despite-pushes")
    assert (answer.status, answer.body.decode()) == (409, f"{REFERENCE} stays: {PATH} references it\n")
    assert await status(server, REFERENCE) == 200


async def test_what_a_push_was_told_is_here_stays_unless_that_is_meant(server: PushServer) -> None:
    answer = await delete(server, PATH)
    assert answer.status == 409
    assert b"a push was told within a day that it is here (?despite-pushes deletes it all the same)" in answer.body
    assert await status(server, PATH) == 200
    answer = await delete(server, PATH, "?despite-pushes")
    assert (answer.status, answer.body.decode()) == (200, f"{PATH}\n")
    assert await status(server, PATH) == 404, "a ready answer is not given any more"
    assert await status(server, REFERENCE) == 200


async def test_a_closure_goes_as_one(server: PushServer) -> None:
    answer = await delete(server, PATH, "?closure&despite-pushes")
    assert answer.body.decode().splitlines() == [PATH, REFERENCE]
    assert (await delete(server, PATH)).status == 404
    assert await push(server, GLIBC)
    assert await status(server, REFERENCE) == 200


async def test_only_what_may_delete_deletes_and_only_in_its_cache(server: PushServer) -> None:
    for token in ("reader", "pusher", "pinner", "stranger"):
        assert (await delete(server, PATH, token=token)).status == 403
    answer = await server.request("DELETE", f"/other/api/paths/{PATH.hash_part}", token="cleaner")
    assert answer.status == 403
    answer = await server.request("DELETE", f"/team/api/paths/{PATH.hash_part}", token=None)
    assert answer.status == 401
    assert (await delete(server, StorePath("x" * 32 + "-absent"))).status == 404
    assert await status(server, PATH) == 200
