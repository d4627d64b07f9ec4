"""Files of NARs that clients push, verified before anything is visible.

They are kept as they came, except bare NARs, which are compressed here. What comes in a request is hashed, decompressed
and read while it arrives; a file that is already here, put together from parts or sent past this server, is read back.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from msgspec import Struct

from harmonia_py.cache.source import Pause, Piece
from harmonia_py.catalog.caches import CacheId, Timestamp, time_by
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.uploads import Uploads
from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.contents.codecs import COMPRESSIONS
from harmonia_py.contents.encoders import Zstd
from harmonia_py.contents.nar_check import NarBounds
from harmonia_py.contents.spool import Spool, SpoolWriter
from harmonia_py.errors import PushRefused
from harmonia_py.nix.path_info import PathInfo
from harmonia_py.push.checked_files import CheckedFiles
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.listings import LongListings
from harmonia_py.push.partial_files import PartialFile
from harmonia_py.push.past_server.ports import SeizedUpload
from harmonia_py.push.steps import SteppingThreads, Steps
from harmonia_py.push.upload_check import MadeUpload, NarUpload, Upload, UploadCheck
from harmonia_py.runtime.threads import in_thread

T = TypeVar("T")

# A file up to this long is checked and written in one go.
_SMALL_BYTES: Final = 256 * 1024
# Bytes of a longer file that may wait in memory while a thread checks those before.
_AHEAD_BYTES: Final = 512 * 1024
# Bounds the work that one file can cause: even zeros, which a small file expands to, take a core at most a minute.
MAX_NAR_SIZE: Final = 64 * 1024**3
# What cannot be compressed grows by less than a sixty-fourth.
MAX_FILE_SIZE: Final = MAX_NAR_SIZE + MAX_NAR_SIZE // 64


class PushSession(Struct, frozen=True):
    """The session, cache and principal that a request of a push belongs to.

    Attributes:
        id: of the session, in the catalog.
        cache: that is pushed to.
        principal: that pushes, by name.
        max_nar_size: bytes that a NAR may have by the settings of the cache; None for no limit of its own.
    """

    id: str
    cache: CacheId
    principal: str
    max_nar_size: int | None = None

    @property
    def most(self) -> int:
        """Bytes that a NAR may have which it brings."""
        return min(self.max_nar_size or MAX_NAR_SIZE, MAX_NAR_SIZE)

    @property
    def bounds(self) -> NarBounds:
        """The bounds of the NARs that it brings."""
        return NarBounds(nar_size=self.most)


def passing_key() -> BlobKey:
    """A random key for a file in the spool, so that two clients that push it at once do not wait for each other."""
    return BlobKey(f"push-{secrets.token_hex(16)}")


class Receiver:
    """Takes files in, for every cache of a process.

    Args:
        spool: for files that are arriving.
        blobs: for whole files.
        uploads: notes what is expected and what was received.
        listings: keeps those that are long.
        threads: check files, and write to the spool.
        checked_at_once: number of files that are checked at once: that of the threads.
        zstd: compresses NARs that clients send bare.
    """

    def __init__(
        self,
        *,
        spool: Spool,
        blobs: BlobStore,
        uploads: Uploads,
        listings: LongListings,
        threads: Executor,
        checked_at_once: int,
        zstd: Zstd | None = None,
    ) -> None:
        self._zstd = zstd or Zstd()
        self._spool = spool
        self._files = CheckedFiles(blobs, uploads, listings, self.now)
        self._threads = threads
        self._stepping = SteppingThreads(threads, checked_at_once)

    def now(self) -> Timestamp:
        """The time as the catalog has it."""
        return time_by(time.time)

    async def receive(
        self, session: PushSession, file: PushedFile, file_size: int, portions: AsyncIterator[bytes]
    ) -> None:
        """Take a file in; when this returns it is whole, durable, checked, and served below the push URLs of its cache.

        Args:
            session: of the client.
            file: the hash and the compression that its URL names.
            file_size: the length that was announced.
            portions: its bytes. An error that they raise ends the upload.

        Raises:
            FormatError: the bytes are not those of the URL, or no NAR.
            PushConflict: what was there before is still being deleted.
            StorageError: it cannot be kept.
        """
        upload = UploadCheck(file, file_size, session.bounds)
        if file_size <= _SMALL_BYTES:
            await self._receive_small(session, upload, portions)
        else:
            await self._receive_large(session, upload, portions)

    async def _receive_small(self, session: PushSession, upload: UploadCheck, portions: AsyncIterator[bytes]) -> None:
        """Take in a file with one call in a thread, mostly: such a call costs more than the check of most files."""
        data = bytearray()
        async for portion in portions:
            data += portion
            if len(data) > upload.file_size:
                break  # too long: the check refuses it
        content = bytes(data)
        checking = asyncio.create_task(self._in_turns(session, upload, upload.take_all([content])))
        try:
            await self._files.expect(session.cache, session.id, upload.file)
        except BaseException:
            await _end(upload, checking)
            raise
        await self._files.keep(session.cache, session.id, await checking, content)

    async def _receive_large(self, session: PushSession, upload: UploadCheck, portions: AsyncIterator[bytes]) -> None:
        await self._files.expect(session.cache, session.id, upload.file)
        async with self._written(upload.file_size) as writer:
            await self._pour(session, upload, writer, portions)
            await self._finish(session, upload, writer)

    async def receive_whole(self, session: PushSession, file: PushedFile, whole: PartialFile) -> None:
        """Take in, as `receive` does, a file that is on the disk already, where the blobs are: nothing is copied."""
        upload = UploadCheck(file, whole.size, session.bounds)
        await self._files.expect(session.cache, session.id, file)
        checked = await self._in_turns(session, upload, upload.take_all(whole.read()))
        await self._files.keep(session.cache, session.id, checked, await in_thread(self._threads, whole.spooled))

    async def receive_seized(self, session: PushSession, file: PushedFile, seized: SeizedUpload) -> None:
        """Take in, as `receive` does, a file that is in the bucket under another name: it is read back."""
        upload = UploadCheck(file, seized.blob.size, session.bounds)
        pieces = seized.blob.pieces(0, None)
        await self._files.expect(session.cache, session.id, file)
        try:
            checked = await self._in_turns(session, upload, upload.take_all(_bytes(pieces)))
        finally:
            if isinstance(pieces, Generator):
                pieces.close()
        await self._files.keep(session.cache, session.id, checked, seized)

    async def receive_nar(self, session: PushSession, claim: PathInfo, portions: AsyncIterator[bytes]) -> NarFile:
        """Take in a NAR that is not compressed, and compress it.

        Returns the file that it became, which is whole, durable, checked and served, as after `receive`.

        Raises:
            FormatError: a larger NAR is claimed than is taken.
            PushRefused: the bytes are not the NAR that `claim` describes.
            PushConflict: what was there before is still being deleted.
            StorageError: it cannot be kept.
        """
        upload = NarUpload(claim, self._zstd.compressor(claim.nar_size), "zstd", session.bounds)
        async with self._written(0) as writer:
            await self._pour(session, upload, writer, portions)
            return await self._finish(session, upload, writer)

    async def receive_made(
        self, session: PushSession, upload: MadeUpload, file_size: int, portions: Iterator[bytes | memoryview | Pause]
    ) -> NarFile:
        """Take in a file that is made here, of chunks; otherwise as `receive_nar`.

        Raises:
            FormatError: it is another NAR than the client says, or none.
            PushConflict: what was there before is still being deleted.
            StorageError: it cannot be made, or not be kept.
        """
        async with self._written(file_size) as writer:
            await self._in_turns(session, upload, upload.take(portions, writer.write))
            return await self._finish(session, upload, writer)

    async def _in_turns(self, session: PushSession, upload: Upload, steps: Steps[T]) -> T:
        return await self._stepping.run(session.principal, steps, upload.give_up)

    @asynccontextmanager
    async def _written(self, file_size: int) -> AsyncIterator[SpoolWriter]:
        """A file in the spool that is being written, while the context lasts."""
        writer = await self._spool.begin(passing_key(), file_size)
        assert writer is not None
        try:
            yield writer
        finally:
            await in_thread(self._threads, writer.close)

    async def _finish(self, session: PushSession, upload: Upload, writer: SpoolWriter) -> NarFile:
        """Keep a file all of whose bytes were taken."""
        finish = lambda: (upload.finish(writer.write), writer.finish())  # noqa: E731
        checked, spooled = await in_thread(self._threads, finish, give_up=upload.give_up)
        await self._files.keep(session.cache, session.id, checked, spooled)
        return checked.file

    async def _pour(
        self,
        session: PushSession,
        upload: Upload,
        writer: SpoolWriter,
        portions: AsyncIterator[bytes],
    ) -> None:
        """Check and write the bytes as they arrive: a thread takes some while the next are awaited."""
        taking: asyncio.Task[None] | None = None
        waiting: list[bytes] = []
        size = 0
        try:
            async for portion in portions:
                waiting.append(portion)
                size += len(portion)
                if taking is not None:
                    if not taking.done() and size < _AHEAD_BYTES:
                        continue
                    await taking
                steps = upload.take(_joined(waiting), writer.write)
                taking = asyncio.create_task(self._in_turns(session, upload, steps))
                waiting, size = [], 0
            if taking is not None:
                await taking
            if waiting:
                await self._in_turns(session, upload, upload.take(_joined(waiting), writer.write))
        except BaseException:
            await _end(upload, taking)
            raise


async def _end(upload: Upload, taking: "asyncio.Task[Any] | None") -> None:
    """Have the thread that checks an upload stop, and wait: until it has, it uses files that the caller has open."""
    upload.give_up()
    if taking is not None:
        await asyncio.wait([taking])
        if not taking.cancelled():
            taking.exception()  # retrieved, so that asyncio does not report it; the caller raises the first error


def _joined(portions: list[bytes]) -> list[bytes]:
    """The bytes in one piece: a call of a codec or a hash may hand over to another thread, which costs more."""
    return portions if len(portions) == 1 else [b"".join(portions)]


def check_compression(file: PushedFile) -> None:
    """Check that the server can decompress files of this compression.

    Raises:
        PushRefused: it cannot.
    """
    if file.compression not in COMPRESSIONS:
        raise PushRefused(f"NARs compressed with {file.compression} are not taken: add ?compression=zstd to the URL")


def _bytes(pieces: Iterator[Piece]) -> Iterator[bytes | Pause]:
    for piece in pieces:
        assert isinstance(piece, bytes | Pause), "a seized file comes from a bucket"
        yield piece
