"""A connection on which something was pushed is as fast afterwards as any other."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pushed_paths import HELLO, STORE
from pushing import PushServer, pushed_to
from serving import Answer, read_answer

from harmonia_py.web.fast.connection import Connection

LISTING = "/team/push/26xbg1ndr7hbcncrlf9nhx5is2b25d13.ls"
NARINFO = f"/team/{HELLO.path.hash_part}.narinfo"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[PushServer]:
    async with pushed_to(tmp_path, STORE) as server:
        yield server


@pytest.fixture
def by_framework(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The targets of the requests that the framework handles."""
    seen: list[str] = []
    handle = Connection._handle_request  # what the framework calls for each request

    async def note(self: Connection, request: Any, *arguments: Any) -> Any:
        seen.append(request.path)
        return await handle(self, request, *arguments)

    monkeypatch.setattr(Connection, "_handle_request", note)
    return seen


class Wire:
    """One connection to `server`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, *parts: bytes) -> None:
        """Send each part by itself."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0.02)  # the server must see the parts one by one, whatever the kernel joins

    async def answer(self) -> Answer:
        return await read_answer(self._reader)

    def close(self) -> None:
        self._writer.close()


async def connect(server: PushServer) -> Wire:
    return Wire(*await asyncio.open_connection("127.0.0.1", server.port))


def request(method: str, target: str, *lines: str) -> bytes:
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", "Host: a", "Authorization: Bearer pusher", *lines, "", ""]
    ).encode()


@pytest.mark.parametrize("parts", [[b"x" * 100], [b"x" * 60, b"x" * 40], [b"", b"x" * 99, b"x"]])
async def test_after_a_push_the_same_connection_is_answered_without_the_framework(
    server: PushServer, by_framework: list[str], parts: list[bytes]
) -> None:
    """A connection that had sent one PUT went the framework's way for as long as it lasted."""
    wire = await connect(server)
    head = request("PUT", LISTING, "Content-Length: 100")
    await wire.send(head + parts[0], *parts[1:])
    assert (await wire.answer()).status == 200
    before = len(by_framework)
    for _ in range(2):
        await wire.send(request("GET", NARINFO))
        assert (await wire.answer()).status == 404
    assert by_framework[before:] == []
    wire.close()


async def test_a_body_that_looks_like_a_request_is_none(server: PushServer, by_framework: list[str]) -> None:
    wire = await connect(server)
    body = request("GET", NARINFO)
    await wire.send(request("PUT", LISTING, f"Content-Length: {2 * len(body)}"), body, body)
    assert (await wire.answer()).status == 200
    await wire.send(request("GET", NARINFO))
    assert (await wire.answer()).status == 404
    assert by_framework == [LISTING]
    wire.close()


async def test_where_a_request_comes_with_the_end_of_a_body_the_framework_goes_on(
    server: PushServer, by_framework: list[str]
) -> None:
    wire = await connect(server)
    await wire.send(request("PUT", LISTING, "Content-Length: 10"), b"0123456789" + request("GET", NARINFO))
    assert [(await wire.answer()).status for _ in range(2)] == [200, 404]
    await wire.send(request("GET", NARINFO))
    assert (await wire.answer()).status == 404
    assert by_framework.count(NARINFO) == 2
    wire.close()
