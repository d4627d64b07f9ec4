"""`UploadsPastServer`: the files that clients of one cache send to the bucket itself, in one request or in parts."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from harmonia_py.catalog.nars import NarFile
from harmonia_py.errors import PushConflict
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.past_server.parts import MultipartPushes, SentParts
from harmonia_py.push.past_server.single import PendingUploads
from harmonia_py.push.receiving import PushSession, check_compression
from harmonia_py.push.room import RoomForPushes

FindFile = Callable[[PushSession, PushedFile], Awaitable[NarFile | None]]
"""A file that the cache has or was sent, which then stays as long as the session lives."""

_NOT_HERE: Final = "files of this cache are not sent past this server in parts"


class UploadsPastServer:
    """The files that clients send past this server.

    Args:
        pending: files that come in one request.
        in_parts: files that come in parts; None where they cannot.
        room: of the cache.
        find: finds files.
        came: is told of the size of each file that was taken in.
    """

    def __init__(
        self,
        pending: PendingUploads,
        in_parts: MultipartPushes | None,
        *,
        room: RoomForPushes,
        find: FindFile,
        came: Callable[[int], Awaitable[None]],
    ) -> None:
        self._pending = pending
        self._in_parts = in_parts
        self._room = room
        self._find = find
        self._came = came

    @property
    def place(self) -> str:
        """The URL of the bucket at which clients send parts; empty where they cannot."""
        return "" if self._in_parts is None else self._in_parts.place

    @property
    def sizes(self) -> range:
        """The sizes of files that come in one request."""
        return range(self._pending.least, self._pending.most + 1)

    @property
    def sizes_in_parts(self) -> range | None:
        """The sizes of files that come in parts; None for none."""
        return None if self._in_parts is None else range(self._in_parts.least, self._in_parts.most + 1)

    async def url(self, session: PushSession, file: PushedFile, file_size: int) -> str | None:
        """The URL to which the client sends a file of this size in one request; None: it sends the file here.

        Raises:
            StorageError: nothing can be told.
        """
        return await self._pending.url(session, file) if self._pending.takes(file_size) else None

    async def begin(self, session: PushSession, file: PushedFile, file_size: int) -> SentParts | None:
        """Begin an upload of a file of this size in parts; None: it comes in another way.

        Raises:
            QuotaExceeded, PushTooLarge: there is no room for it.
            StorageError: it cannot be begun.
        """
        check_compression(file)
        await self._room.check(file_size, file.file_hash)
        sizes = self.sizes_in_parts
        if self._in_parts is None or sizes is None or file_size not in sizes:
            return None
        return await self._in_parts.begin(session, file, file_size, self._room.has)

    def urls(self, sent: SentParts, first: int, count: int) -> Sequence[str]:
        """As `MultipartPushes.urls`."""
        return self._multipart().urls(sent, first, count)

    async def give_up(self, sent: SentParts) -> None:
        """Remove what was sent of a file."""
        await self._multipart().forget(sent)

    def ended(self, session: PushSession) -> None:
        """As `MultipartPushes.ended`."""
        if self._in_parts is not None:
            self._in_parts.ended(session)

    async def finish(
        self, session: PushSession, file: PushedFile, sent: SentParts | None = None, etags: Sequence[str] = ()
    ) -> bool:
        """Take in a file that the client has sent; False while that goes on: the client asks again.

        Args:
            session: of the client.
            file: that it says it has sent.
            sent: the parts that it sent; None: it made one request.
            etags: what the bucket answered to each part.

        Raises:
            PushConflict: the client has sent none, or nothing is left of it.
            HarmoniaError: as `Receiver.receive`.
        """
        check_compression(file)
        if await self._find(session, file) is not None:
            return True
        take = self.take if sent is None else partial(self._take_parts, sent, etags)
        if not await self._pending.is_received(session, file, partial(_taken, take, session, file)):
            return False
        # If another session of this principal has begun the check, the file stays for that session alone.
        if await self._find(session, file) is None:
            raise PushConflict("the file was here, and went at once: send it again")
        return True

    async def take(self, session: PushSession, file: PushedFile) -> bool:
        """Take in a file that the client has sent in one request; False when it has sent none.

        Raises:
            HarmoniaError: as `Receiver.receive`.
        """
        upload = await self._pending.seize(session, file)
        if upload is None:
            return False
        try:
            # The file may have another size than the client said.
            await self._room.check(upload.blob.size, file.file_hash)
            with self._room.arriving(upload.blob.size):
                await self._pending.receive(session, file, upload)
            await self._came(upload.blob.size)
        finally:
            await upload.close()
        return True

    async def _take_parts(self, sent: SentParts, etags: Sequence[str], session: PushSession, file: PushedFile) -> bool:
        in_parts = self._multipart()
        upload = await in_parts.seize(sent, etags)
        if upload is None:
            return False
        try:
            await self._room.check(sent.size, file.file_hash)
            with self._room.arriving(sent.size):
                await in_parts.receive(session, file, sent, upload)
            await self._came(sent.size)
        finally:
            await upload.close()
        return True

    def _multipart(self) -> MultipartPushes:
        if self._in_parts is None:
            raise PushConflict(_NOT_HERE)
        return self._in_parts


async def _taken(
    take: Callable[[PushSession, PushedFile], Awaitable[bool]], session: PushSession, file: PushedFile
) -> None:
    if not await take(session, file):
        raise PushConflict("the file is not where it should have been sent")
