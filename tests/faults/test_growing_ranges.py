"""Clients that ask for all kinds of parts of a file on its way from an upstream, and of which many leave."""

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from fault_upstream import Connection, FaultUpstream, Package, package
from mirrors import mirror_of, settle
from serving import Answer, Served, eventually

SIZE = 3_000_000
MIDDLE = SIZE // 2


class Gate:
    """Lets the second half of a file through when it is opened."""

    def __init__(self, upstream: FaultUpstream, one: Package) -> None:
        self.open = asyncio.Event()
        self._file = one.file
        upstream.serve(one)
        upstream.answers[f"/{one.path}"] = self._speak

    async def _speak(self, connection: Connection) -> None:
        await connection.respond(self._file[:MIDDLE], Content_Length=str(len(self._file)))
        await self.open.wait()
        await connection.send(self._file[MIDDLE:])


@pytest.fixture
async def upstream() -> AsyncIterator[FaultUpstream]:
    async with FaultUpstream() as upstream:
        yield upstream


PARTS = {
    "bytes=0-": (0, SIZE),
    "bytes=0-0": (0, 1),
    "bytes=10-99": (10, 100),
    "bytes=-1": (SIZE - 1, SIZE),
    "bytes=-99999999999": (0, SIZE),
    f"bytes={MIDDLE - 5}-{MIDDLE + 5}": (MIDDLE - 5, MIDDLE + 6),
    f"bytes={SIZE - 1}-": (SIZE - 1, SIZE),
    f"bytes={SIZE - 1}-99999999999": (SIZE - 1, SIZE),
    f"bytes={MIDDLE}-{SIZE - 2}": (MIDDLE, SIZE - 1),
}
BEYOND = [f"bytes={SIZE}-", "bytes=99999999999-", "bytes=-0"]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_each_gets_its_part_whoever_leaves_and_nothing_is_left_open(
    upstream: FaultUpstream, tmp_path: Path
) -> None:
    one = package(size=SIZE, compression="none")
    gate = Gate(upstream, one)
    target = f"/{one.our_url}"
    choice = random.Random(1)
    async with mirror_of(upstream, directory=tmp_path) as mirror, Served(cast(Any, mirror)) as served:
        head = await served.request("HEAD", target, {"Accept-Encoding": "identity"})
        assert (head.status, head.headers["Content-Length"]) == (200, str(SIZE))
        before = descriptors()
        clients = {
            (text, number): asyncio.create_task(served.get(target, {"Range": text, "Accept-Encoding": "identity"}))
            for text in (*PARTS, *BEYOND)
            for number in range(4)
        }
        await clients["bytes=0-0", 0]
        for task in choice.sample(sorted(clients.values(), key=id), len(clients) // 2):
            task.cancel()
        gate.open.set()
        answers: dict[str, Answer] = {}
        for (text, _), task in clients.items():
            await asyncio.wait([task])
            if not task.cancelled():
                answers[text] = task.result()
                assert_is_the_part(one, text, answers[text])
        assert len(answers) > len(PARTS) // 2
        await settle(mirror)
        await eventually(lambda: descriptors() <= before)
    assert upstream.count("/nar/") == 1


def assert_is_the_part(one: Package, text: str, answer: Answer) -> None:
    if text in BEYOND:
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
        return
    start, stop = PARTS[text]
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.body == one.file[start:stop]
