"""A fault injector: a listener that shakes hands like a nix-daemon and then says whatever bytes a test wants.

    async with Peer(tmp_path / "socket", talk) as peer:     # `talk(reader, writer)` runs once per connection
        ...
    peer.connections                                        # how many there were
    await peer.all_hung_up()                                # returns when clients have closed all of them

It stands in for nothing of ours: what a real daemon does is tested with a real daemon.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Self

from harmonia_py.nix.handshake import Frame
from harmonia_py.nix.wire import write_string, write_u64
from harmonia_py.nix.worker import set_options

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

LAST: Final = write_u64(Frame.LAST)


def refusal(message: str) -> bytes:
    """The daemon's own error."""
    words = (write_u64(Frame.ERROR), write_string("Error"), write_u64(0), write_string("Error"))
    return b"".join((*words, write_string(message), write_u64(0), write_u64(0)))


async def hang(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    """Read everything and say nothing, until the client hangs up."""
    while await reader.read(65536):
        pass


async def shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(16)
    writer.write(bytes.fromhex("6f69786400000000 2201000000000000"))
    await reader.readexactly(16)
    writer.write(write_string("2.8.0") + LAST)
    await reader.readexactly(len(set_options().request))
    writer.write(LAST)


def then(*replies: bytes) -> Talk:
    """Shake hands, answer requests with these bytes, whatever they ask, and hang up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await shake_hands(reader, writer)
        for reply in replies:
            if not await reader.read(65536):
                return
            writer.write(reply)

    return talk


def then_hang(*replies: bytes) -> Talk:
    """As `then`, but never hang up."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await then(*replies)(reader, writer)
        await hang(reader, writer)

    return talk


class Peer:
    def __init__(self, path: Path, talk: Talk) -> None:
        self.path = path
        self.connections = 0
        self._talk = talk
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self.path, backlog=1000)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def all_hung_up(self) -> None:
        async with asyncio.timeout(20):
            await asyncio.gather(*self._tasks)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not a coroutine: asyncio keeps no hold of the tasks it would make.
        self.connections += 1
        task = asyncio.ensure_future(self._answer(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client left, which is what tests are about
        finally:
            writer.close()
