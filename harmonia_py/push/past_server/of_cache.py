"""`UploadsPastServer`: the files that clients of one cache send to the bucket itself, in one request or in parts."""

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec import Struct

from harmonia_py.catalog.nars import NarFile
from harmonia_py.errors import FormatError, PushConflict, PushRefused
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.past_server.parts import MultipartPushes, SentParts
from harmonia_py.push.past_server.ports import SeizedUpload
from harmonia_py.push.past_server.single import PendingUploads
from harmonia_py.push.receiving import PushSession, Receiver, check_compression
from harmonia_py.push.room import RoomForPushes

FindFile = Callable[[PushSession, PushedFile], Awaitable[NarFile | None]]
"""A file that the cache has or was sent, which then stays as long as the session lives."""


class UploadsPastServer(Struct, frozen=True, eq=False):
    """The files that clients send past this server.

    Attributes:
        pending: files that come in one request.
        in_parts: files that come in parts; None where they cannot.
        receiver: checks files and keeps them.
        room: of the cache.
        find: finds files.
        came: is told of the size of each file that was taken in.
    """

    pending: PendingUploads
    in_parts: MultipartPushes | None
    receiver: Receiver
    room: RoomForPushes
    find: FindFile
    came: Callable[[int], Awaitable[None]]

    @property
    def place(self) -> str:
        """The URL of the bucket at which clients send parts; empty where they cannot."""
        return "" if self.in_parts is None else self.in_parts.place

    @property
    def sizes(self) -> range:
        """The sizes of files that come in one request."""
        return self.pending.sizes

    @property
    def sizes_in_parts(self) -> range | None:
        """The sizes of files that come in parts; None for none."""
        return None if self.in_parts is None else self.in_parts.sizes

    @property
    def multipart(self) -> MultipartPushes:
        """The files that come in parts.

        Raises:
            PushConflict: none do.
        """
        if self.in_parts is None:
            raise PushConflict("files of this cache are not sent past this server in parts")
        return self.in_parts

    async def url(self, session: PushSession, file: PushedFile, file_size: int) -> str | None:
        """The URL to which the client sends a file of this size in one request; None: it sends the file here.

        Raises:
            StorageError: nothing can be told.
        """
        return await self.pending.url(session, file) if file_size in self.sizes else None

    async def begin(self, session: PushSession, file: PushedFile, file_size: int) -> SentParts | None:
        """Begin an upload of a file of this size in parts; None: it comes in another way.

        Raises:
            QuotaExceeded, PushTooLarge: there is no room for it.
            StorageError: it cannot be begun.
        """
        check_compression(file)
        await self.room.check(file_size, file.file_hash)
        if self.in_parts is None or file_size not in self.in_parts.sizes:
            return None
        return await self.in_parts.begin(session, file, file_size, self.room.has)

    def ended(self, session: PushSession) -> None:
        """As `MultipartPushes.ended`."""
        if self.in_parts is not None:
            self.in_parts.ended(session)

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
        if await self.find(session, file) is not None:
            return True

        async def take() -> None:
            taking = self.take(session, file) if sent is None else self._take_parts(session, file, sent, etags)
            if not await taking:
                raise PushConflict("the file is not where it should have been sent")

        if not await self.pending.is_received(session, file, take):
            return False
        # If another session of this principal has begun the check, the file stays for that session alone.
        if await self.find(session, file) is None:
            raise PushConflict("the file was here, and went at once: send it again")
        return True

    async def take(self, session: PushSession, file: PushedFile) -> bool:
        """Take in a file that the client has sent in one request; False when it has sent none.

        Raises:
            HarmoniaError: as `Receiver.receive`.
        """
        upload = await self.pending.seize(session, file)
        return await self._take_in(session, file, upload, partial(self.pending.forget, session, file))

    async def _take_parts(self, session: PushSession, file: PushedFile, sent: SentParts, etags: Sequence[str]) -> bool:
        upload = await self.multipart.seize(sent, etags)
        return await self._take_in(session, file, upload, partial(self.multipart.forget, sent))

    async def _take_in(
        self, session: PushSession, file: PushedFile, upload: SeizedUpload | None, forget: Callable[[], Awaitable[None]]
    ) -> bool:
        """Read a file back and take it in, then `forget` what was sent, also if it was wrong; False for no file."""
        if upload is None:
            return False
        size = upload.blob.size  # perhaps another one than the client said
        try:
            await self.room.check(size, file.file_hash)
            with self.room.arriving(size):
                try:
                    await self.receiver.receive_seized(session, file, upload)
                except (FormatError, PushRefused):
                    await forget()
                    raise
                await forget()
            await self.came(size)
        finally:
            await upload.close()
        return True
