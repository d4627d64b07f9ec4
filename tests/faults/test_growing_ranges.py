"""Clients that ask for all kinds of parts of a file on its way from an upstream, and of which many leave."""

import asyncio
import random
from pathlib import Path
from typing import Any, cast

import pytest
from fault_upstream import Connection, FaultUpstream, Package, package
from mirrors import mirror_of, settle
from serving import Answer, Served
from waiting import eventually

from harmonia_py.contents.blobs import Blob, BlobKey

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


async def test_a_request_that_looked_for_the_file_before_it_came_knows_how_long_it_is(
    upstream: FaultUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client asked for the first byte of a file and got all of it, chunked, and no faster than the upstream sent it.

    The request had looked for the file before another request began it, and then took it for one that another process
    fetches, whose length is not known.
    """
    one = package(size=SIZE, compression="none")
    gate = Gate(upstream, one)
    has_begun = asyncio.Event()
    async with mirror_of(upstream, directory=tmp_path) as mirror:
        look = mirror._intake.storage.open
        looks = 0

        async def first_look_takes_long(key: BlobKey) -> Blob | None:
            nonlocal looks
            looks += 1
            is_first = looks == 1
            found = await look(key)
            if is_first:
                await has_begun.wait()
            return found

        monkeypatch.setattr(mirror._intake.storage, "open", first_look_takes_long)
        slow = asyncio.create_task(mirror.nar(one.our_url))
        await eventually(lambda: looks)
        for request in (mirror.nar(one.our_url), slow):
            download = await request
            has_begun.set()
            assert download is not None
            with download:
                assert download.size == SIZE
        gate.open.set()
        await settle(mirror)


def assert_is_the_part(one: Package, text: str, answer: Answer) -> None:
    if text in BEYOND:
        assert (answer.status, answer.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
        return
    start, stop = PARTS[text]
    assert answer.status == 206
    assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert answer.body == one.file[start:stop]
