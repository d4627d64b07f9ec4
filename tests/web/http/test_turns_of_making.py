"""Turns at making pages: whose client has left, and at the end of the server."""

import asyncio
from dataclasses import dataclass, field

import pytest
from serving import PATH, FakeSource, Served, read_answer
from waiting import eventually

from harmonia_py.cache.found import Found
from harmonia_py.nix.store_path import HashPart
from harmonia_py.runtime.turns import Turn, Turns

PAGE = f"GET /path/{PATH.hash_part} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


@dataclass
class SlowSource(FakeSource):
    """Its answers come when `is_open` is set."""

    is_open: asyncio.Event = field(default_factory=asyncio.Event)

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        self.asked.append("narinfo")
        await self.is_open.wait()
        return await super().narinfo(hash_part)


@pytest.fixture
def queued(monkeypatch: pytest.MonkeyPatch) -> list[Turn]:
    """The turns that had to wait."""
    turns: list[Turn] = []
    queue = Turns.queue

    def noting(self: Turns, turn: Turn, client: str) -> None:
        turns.append(turn)
        queue(self, turn, client)

    monkeypatch.setattr(Turns, "queue", noting)
    return turns


async def test_at_the_end_of_the_server_a_page_that_was_not_begun_is_not_made(queued: list[Turn]) -> None:
    """After a client had asked for pages that take long, a server took all of its time to stop, and made them."""
    source = SlowSource()
    served = Served(source, shutdown_timeout=60.0)
    async with served:
        first, first_writer = await served.connect()
        first_writer.write(PAGE)
        await eventually(lambda: source.asked == ["narinfo"])
        second, second_writer = await served.connect()
        second_writer.write(PAGE)
        await eventually(lambda: queued)
        ending = asyncio.create_task(served.__aexit__())
        assert (await read_answer(second)).status == 503
        assert not ending.done()
        source.is_open.set()
        assert (await read_answer(first)).status == 200
        await ending
        for writer in (first_writer, second_writer):
            writer.close()


async def test_a_client_that_has_left_has_no_page_made(queued: list[Turn], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each page that it had asked for was made, one after the other, for minutes."""
    monkeypatch.setattr("harmonia_py.web.http.pausing._SHUT_SECONDS", 0.01)
    source = SlowSource()
    async with Served(source) as served:
        first, first_writer = await served.connect()
        first_writer.write(PAGE)
        await eventually(lambda: source.asked == ["narinfo"])
        _, second_writer = await served.connect()
        second_writer.write(PAGE)
        await eventually(lambda: queued)
        second_writer.transport.abort()
        await eventually(lambda: not queued[0].is_waiting)
        source.is_open.set()
        assert (await read_answer(first)).status == 200
        assert (await served.get(f"/path/{PATH.hash_part}")).status == 200
        assert source.asked.count("narinfo") == 2
        first_writer.close()
