"""The conversation of a stock `nix copy --to`, and what Nix makes of each answer that a server could give.

The first tests hold our server against the conversation as it was recorded with Nix 2.8. The others are of a server
that does one thing otherwise: what Nix then does is why ours never answers a PUT with 202, 5xx or a late word.
"""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from lab import Lab
from pushing import pushed_to

_STALL: Final = 1
"""Seconds of `stalled-download-timeout`: Nix has 300 by default."""


async def test_a_push_asks_and_sends_as_it_was_recorded(tmp_path: Path, lab: Lab) -> None:
    """Thirteen requests for three paths in a chain, references first; then none, and for another run four questions."""
    chain = (lab.closure.input0, lab.closure.input2, lab.closure.top)
    async with pushed_to(tmp_path, lab.store_dir) as server:
        await server.copy(lab, lab.closure.top, compression="zstd")
        seen = server.seen
        assert len(seen) == 13
        assert seen[0] == "GET /r1/nix-cache-info 200"
        assert set(seen[1:4]) == {f"GET /r1/{path.hash_part}.narinfo 404" for path in chain}
        for number, path in enumerate(chain):
            head, nar, narinfo = seen[4 + 3 * number :][:3]
            assert head.startswith("HEAD /r1/nar/")
            assert head.endswith(".nar.zst 404")
            assert nar == f"PUT {head.split()[1]} 200"
            assert narinfo == f"PUT /r1/{path.hash_part}.narinfo 200"
        await server.copy(lab, lab.closure.top, compression="zstd")
        assert server.seen == seen
        await server.copy(lab, lab.closure.top, run="r2", compression="zstd")
        asked = server.seen[13:]
        assert set(asked) == {
            "GET /r2/nix-cache-info 200",
            *(f"GET /r2/{path.hash_part}.narinfo 200" for path in chain),
        }
        assert len(asked) == 4


async def test_a_client_that_is_told_to_refresh_asks_again(tmp_path: Path, lab: Lab) -> None:
    async with pushed_to(tmp_path, lab.store_dir) as server:
        await server.copy(lab, lab.closure.input0)
        before = len(server.seen)
        await server.copy(lab, lab.closure.input0, options=("--refresh",))
        asked = server.seen[before:]
        assert f"/r1/{lab.closure.input0.hash_part}.narinfo 200" in {line.partition(" ")[2] for line in asked}
        assert not [line for line in asked if line.startswith("PUT")]


@dataclass
class Put:
    """A PUT: its place, its header in lower case, and how much of its body came."""

    place: str
    header: Mapping[str, str]
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    body: bytes = b""

    @property
    def length(self) -> int:
        return int(self.header["content-length"])

    async def take(self) -> None:
        """Ask for the body, and read it."""
        self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await self.read()

    async def read(self) -> None:
        self.body = await self.reader.readexactly(self.length)

    def answer(self, status: str, text: str = "", *lines: str) -> None:
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(text)}", *lines, "", ""]
        self.writer.write(("\r\n".join(head) + text).encode())


Behaviour = Callable[[Put], Awaitable[None]]


@dataclass
class Recorder:
    """A server that has nothing, and does with each PUT as a test says."""

    store_dir: str
    behaviour: Behaviour
    port: int = 0
    puts: list[Put] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                first, *lines = request.strip().split("\r\n")
                method, place, _ = first.split()
                header = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                put = Put(place, header, reader, writer)
                if method == "PUT":
                    self.puts.append(put)
                    await self.behaviour(put)
                elif place.endswith("nix-cache-info"):
                    put.answer("200 OK", f"StoreDir: {self.store_dir}\n")
                else:
                    put.answer("404 Not Found")
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def copy(self, lab: Lab, *options: str, stall: int = 300) -> subprocess.CompletedProcess[bytes]:
        """`nix copy` of one small path, whose NAR and narinfo are two PUTs."""
        settings = {"stalled-download-timeout": str(stall), "download-attempts": "2"}
        words = [word for pair in settings.items() for word in ("--option", *pair)]
        url = f"http://127.0.0.1:{self.port}?compression=none"
        command = ["nix", "copy", *words, *options, "--to", url, lab.full(lab.closure.input0)]
        return await asyncio.to_thread(lab.run, *command, check=False)


@asynccontextmanager
async def recording(lab: Lab, behaviour: Behaviour) -> AsyncIterator[Recorder]:
    recorder = Recorder(lab.store_dir, behaviour)
    server = await asyncio.start_server(recorder.serve, "127.0.0.1", 0)
    recorder.port = server.sockets[0].getsockname()[1]
    async with server:
        yield recorder


@pytest.fixture
def recorded(lab: Lab) -> Lab:
    """A lab whose Nix announces a body of any size, as that of the recording does.

    Nix 2.26 sends small ones at once, and gives up, "necessary data rewind was not possible", where it would have to
    send them again.
    """
    version = lab.nix("--version").split()[-1]
    if not version.startswith("2.8."):
        pytest.skip(f"Nix {version} does not announce small bodies; the conversation was recorded with Nix 2.8")
    return lab


async def accept(put: Put) -> None:
    await put.take()
    put.answer("200 OK")


@pytest.mark.parametrize("status", ["307 Temporary Redirect", "308 Permanent Redirect"])
@pytest.mark.parametrize(("host", "goes_along"), [("localhost", False), ("127.0.0.1", True)])
async def test_a_redirect_before_the_body_is_followed(
    recorded: Lab, tmp_path: Path, status: str, host: str, *, goes_along: bool
) -> None:
    """So a bucket can take the body; the password goes along to another port of the host, and to no other host."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1\nlogin x\npassword secret\n")
    async with recording(recorded, accept) as bucket:

        async def redirect(put: Put) -> None:
            put.answer(status, "", f"Location: http://{host}:{bucket.port}{put.place}?signed=1")

        async with recording(recorded, redirect) as server:
            done = await server.copy(recorded, "--option", "netrc-file", str(tmp_path / "netrc"))
    assert done.returncode == 0, done.stderr
    assert [put.body for put in server.puts] == [b"", b""]
    assert all("authorization" in put.header for put in server.puts)
    assert [put.place for put in bucket.puts] == [f"{put.place}?signed=1" for put in server.puts]
    assert all(len(put.body) == put.length > 0 for put in bucket.puts)
    assert {"authorization" in put.header for put in bucket.puts} == {goes_along}


async def _accepted_later(put: Put) -> None:
    await put.take()
    put.answer("202 Accepted")


async def _no_answer(put: Put) -> None:
    await put.take()
    await put.reader.read()  # until the client gives up


async def _signs_of_life_alone(put: Put) -> None:
    await put.take()
    while True:  # until the client gives up, which ends the connection
        put.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await put.writer.drain()
        await asyncio.sleep(_STALL / 4)


async def _cut(put: Put) -> None:
    await put.take()
    put.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it")
    await put.writer.drain()
    put.writer.close()


@pytest.mark.parametrize("behaviour", [_accepted_later, _no_answer, _signs_of_life_alone, _cut])
async def test_what_nix_takes_for_a_passing_error_it_sends_again_without_its_body(
    recorded: Lab, behaviour: Behaviour
) -> None:
    """It announces the body once more and has none: a server that took that for an upload would keep an empty NAR."""
    again: list[int] = []

    async def first_as_said(put: Put) -> None:
        if len(server.puts) == 1:
            await behaviour(put)
            return
        put.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        again.append(len(await put.reader.read(put.length)))

    async with recording(recorded, first_as_said) as server:
        done = await server.copy(recorded, stall=_STALL)
    assert done.returncode != 0
    assert server.puts[0].body
    assert again, "it tries again"
    assert set(again) == {0}
    assert {(put.place, put.length) for put in server.puts} == {(server.puts[0].place, len(server.puts[0].body))}


@pytest.mark.parametrize(("status", "place"), [("409 Conflict", ".narinfo"), ("413 Content Too Large", ".nar")])
async def test_a_refusal_ends_the_push_and_its_text_is_printed(lab: Lab, status: str, place: str) -> None:
    async def refuse(put: Put) -> None:
        if not put.place.endswith(place):
            await accept(put)
            return
        put.answer(status, "the cache is full: ask its operator\n", "Connection: close")

    async with recording(lab, refuse) as server:
        done = await server.copy(lab)
    assert done.returncode == 1
    assert b"the cache is full: ask its operator" in done.stderr
    assert server.puts[-1].place.endswith(place)
    assert server.puts[-1].body == b""


async def test_a_body_that_is_not_asked_for_comes_a_second_later(recorded: Lab) -> None:
    async def silent(put: Put) -> None:
        assert put.header["expect"] == "100-continue"
        begin = time.monotonic()
        await put.read()
        waits.append(time.monotonic() - begin)
        put.answer("200 OK")

    waits: list[float] = []
    async with recording(recorded, silent) as server:
        done = await server.copy(recorded)
    assert done.returncode == 0, done.stderr
    assert len(waits) == len(server.puts) == 2
    assert min(waits) > 0.8


async def test_an_answer_that_dribbles_is_waited_for(lab: Lab) -> None:
    async def dribble(put: Put) -> None:
        await put.take()
        put.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(12):
            put.writer.write(b"40\r\n" + b"." * 64 + b"\r\n")
            await put.writer.drain()
            await asyncio.sleep(_STALL / 4)
        put.writer.write(b"0\r\n\r\n")

    async with recording(lab, dribble) as server:
        done = await server.copy(lab, stall=_STALL)
    assert done.returncode == 0, done.stderr
    assert len(server.puts) == 2
