"""One path sent: its NAR read, held against the store's hash, compressed, and given to the server.

What fits one part goes as a file of its own. What does not goes part by part, while the next part is being made: it
need never be on a disk or in memory as a whole. The same NAR always becomes the same bytes, so a push that was cut
makes them again and passes over what the server has. Where the server takes a large file at another place, the bucket
in which it keeps files, the file is made whole first: a bucket has to be told how long it is.

More paths are on their way than are being made: a compressor takes 3.5 MB and a core, what is on its way a part.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from harmonia_py.client.answers import SessionInfo
from harmonia_py.client.api import PushApi
from harmonia_py.client.compress import compressed
from harmonia_py.client.http import HttpServer
from harmonia_py.client.local_paths import LocalPaths
from harmonia_py.client.made_file import COMPRESSION, MadeFile, NoPlace, StoredFile
from harmonia_py.client.outcomes import Events
from harmonia_py.client.past_server import PastServer, until_checked
from harmonia_py.client.recipe_sending import RecipeSender
from harmonia_py.contents.encoders import Zstd
from harmonia_py.errors import PushConflict
from harmonia_py.nix.narinfo import COMPRESSIONS_BY_SUFFIX, SUFFIXES, NarInfo
from harmonia_py.nix.path_info import PathInfo

# From here on all cores compress one NAR, and one such NAR is compressed at a time: zstd needs 17 MB and more for it.
_LARGE_BYTES: Final = 16 * 1024 * 1024
_ATTEMPTS: Final = 3


class SentFile(Struct, frozen=True):
    """A file that is with the server.

    Attributes:
        name: `<FileHash>.nar.zst`.
        size: bytes that were sent for it; 0 when it was there.
        saved: how many bytes more it has, which the cache had as chunks of other paths.
    """

    name: str
    size: int
    saved: int = 0

    def claim(self, info: PathInfo) -> NarInfo:
        """The narinfo that claims the file to be the NAR of this path."""
        _, _, suffix = self.name.partition(".nar")
        return NarInfo(path_info=info, url=f"nar/{self.name}", compression=COMPRESSIONS_BY_SUFFIX[suffix])


class Sender:
    """Sends files.

    Args:
        api: of the cache.
        elsewhere: sends files past the server, with no token; None where it does not.
        store: has the paths.
        threads: read and compute.
        zstd: compresses files.
        events: is told how far it is.
        making: number of files that are compressed at the same time.
    """

    def __init__(
        self,
        api: PushApi,
        store: LocalPaths,
        threads: Executor,
        zstd: Zstd,
        events: Events,
        *,
        making: int,
        elsewhere: HttpServer | None = None,
    ) -> None:
        self._api = api
        self._store = store
        self._threads = threads
        self._zstd = zstd
        self._events = events
        self._large = asyncio.Semaphore(1)
        self._making = asyncio.Semaphore(making)
        self._past = None if elsewhere is None else PastServer(api.uploads, elsewhere)
        self._may_store = True
        self._recipes = RecipeSender(api.chunks, store, threads, zstd.level, events, making=self._making)

    def expect(self, session: SessionInfo, wanted: Sequence[PathInfo]) -> None:
        """As `RecipeSender.expect`."""
        self._recipes.expect(session, wanted)

    async def send(self, session: SessionInfo, info: PathInfo) -> SentFile:
        """Send the file of a path.

        Raises:
            StorePathChanged: its files are not what the store says.
            HarmoniaError: as `PushApi.send`.
        """
        made = await self._recipes.send(session, info)
        if made is not None:
            file, sent = made
            return SentFile(file.name, sent, max(0, file.size - sent))
        for _ in range(_ATTEMPTS - 1):
            with suppress(PushConflict):  # the server has lost what it had of this file
                return await self._send(session, info)
        return await self._send(session, info)

    async def _send(self, session: SessionInfo, info: PathInfo) -> SentFile:
        file: MadeFile | None = None
        try:
            with ExitStack() as stack:
                stored: StoredFile | None = None
                sent: int | None = None
                async with self._turn(info) as zstd:
                    file = MadeFile(compressed(self._store.nar(info), info, zstd), self._threads, self._events)
                    part = await file.part()
                    if not file.is_whole and self._may_go_past(session, info):
                        stored = await self._stored(file, part, stack)
                    elif not file.is_whole:
                        sent = await self._send_parts(session, info, file, part)
                if stored is not None:
                    sent = await self._send_stored(session, info, stored)
                elif sent is not None:
                    await self._finish(session, _part_name(info), file)
                else:
                    await self._api.send(session, file.name, part)
                    sent = len(part)
                return SentFile(file.name, sent)
        except PushConflict:
            self._events.advanced(0 if file is None else -file.read)
            raise

    async def _stored(self, file: MadeFile, part: bytearray, stack: ExitStack) -> StoredFile:
        try:
            stored = stack.enter_context(StoredFile(self._threads))
            await stored.fill(file, part)
        except NoPlace as error:
            self._may_store = False
            raise PushConflict(f"it is made once more: {error}") from error
        return stored

    def _may_go_past(self, session: SessionInfo, info: PathInfo) -> bool:
        """Whether the file of a path may be long enough to be sent past the server."""
        return self._past is not None and self._may_store and self._past.may_take(session, info.nar_size)

    async def _send_stored(self, session: SessionInfo, info: PathInfo, file: StoredFile) -> int:
        """Send a file past the server, or else to it in parts; how many bytes had to be sent."""
        assert self._past is not None
        if await self._past.send(session, file):
            return file.size
        sent = await self._send_parts(session, info, file, await file.part())
        await self._finish(session, _part_name(info), file)
        return sent

    @asynccontextmanager
    async def _turn(self, info: PathInfo) -> AsyncIterator[Zstd]:
        """Wait until this path may be made, and say how."""
        async with AsyncExitStack() as stack:
            is_large = info.nar_size >= _LARGE_BYTES
            if is_large:
                await stack.enter_async_context(self._large)
            await stack.enter_async_context(self._making)
            yield self._zstd if is_large else replace(self._zstd, threads=0)

    async def _send_parts(
        self, session: SessionInfo, info: PathInfo, file: MadeFile | StoredFile, part: bytearray
    ) -> int:
        """Send `part` and what comes after it; how many bytes had to be sent."""
        nar = _part_name(info)
        begin = here = await self._api.offset(session, nar)
        offset, sent = 0, 0
        while part:
            end = offset + len(part)
            if here >= end:  # of an earlier push
                part = await file.part()
            else:
                rest = memoryview(part)[max(0, here - offset) :]
                sending = asyncio.create_task(self._send_part(session, nar, end - len(rest), rest))
                sent += len(rest)
                try:
                    part = await file.part()
                except BaseException:
                    sending.cancel()
                    await asyncio.gather(sending, return_exceptions=True)
                    raise
                here = await sending
            offset = end
        return sent if begin else file.size

    async def _send_part(self, session: SessionInfo, nar: str, offset: int, data: memoryview) -> int:
        here = await self._api.send_part(session, nar, offset, data)
        if here < offset + len(data):
            raise PushConflict(f"the server has {here} bytes of it after it was sent {offset + len(data)}")
        return here

    async def _finish(self, session: SessionInfo, nar: str, file: MadeFile | StoredFile) -> None:
        await until_checked(partial(self._api.finish_file, session, nar, file.name, file.size))


def _part_name(info: PathInfo) -> str:
    """The name of a file that is sent in parts, until it is whole."""
    return f"{info.nar_hash.nix32}.nar{SUFFIXES[COMPRESSION]}"
