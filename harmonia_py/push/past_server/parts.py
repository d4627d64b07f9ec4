"""Files that clients send to the bucket in parts: larger ones than one request carries, at once, each part again alone.

The bucket remembers all of it. The name that a file has there until it is published says whose it is and how long it
may be, and the bucket takes no part for an upload under another name: so every process of every machine knows what a
client may send, and a client can change nothing of it. The name is drawn anew for each upload. Once the parts are put
together nothing can be sent for it any more: the file is read back and verified where it is.
"""

import asyncio
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Self

from msgspec import Struct, field

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.uploads import SESSION_SECONDS, Session
from harmonia_py.errors import FormatError, PushRefused, StorageError
from harmonia_py.nix.hashes import short_digest
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.past_server.ports import BucketUpload, MultipartUploads, SeizedUpload
from harmonia_py.push.receiving import MAX_FILE_SIZE, PushSession

_log = logging.getLogger(__name__)

MAX_URLS: Final = 100
"""In one answer: each has some five hundred bytes."""
MAX_PARTS: Final = 1000
"""Of one file: a client tells the tags of all of them in one request. S3 itself allows ten thousand."""
MAX_ETAG: Final = 200
"""Characters of the tag of a part; those of Amazon have 34."""
_MIB: Final = 1024 * 1024
_MAX_OPEN: Final = 64
# One page of a list. A token has as many sessions as its jobs begin.
_MAX_OPEN_OF_PRINCIPAL: Final = 1000
_SWEEP_SECONDS: Final = 3600.0
# Sessions that have ended and wait for their sweep, which takes a request for each.
_MOST_ENDED: Final = 1000
_SHAPE: Final = re.compile(r"([0-9]{1,15})\.([0-9]{1,15})\.([0-9a-f]{32})\.([!-~]{1,1024})", re.ASCII)

FindSession = Callable[[str], Awaitable[Session | None]]
"""The session of an id, as `Sessions.find` of the catalog."""


class SentParts(Struct, frozen=True):
    """The upload of one file in parts.

    Attributes:
        size: bytes of the file.
        part_size: bytes of each part but the last, which has the rest.
        upload: as the bucket knows it.
    """

    size: int
    part_size: int
    upload: BucketUpload

    @classmethod
    def parse(cls, text: str, session: PushSession, file: PushedFile) -> Self:
        """Read what `format` has written for this session and this file.

        For another one the bucket knows no such upload.

        Raises:
            FormatError: it is something else.
        """
        shape = _SHAPE.fullmatch(text)
        if shape is None:
            raise FormatError("not an upload in parts")
        size, part_size = int(shape[1]), int(shape[2])
        if not 0 < size <= MAX_FILE_SIZE or not 0 < part_size <= size <= MAX_PARTS * part_size:
            raise FormatError("not an upload in parts")
        return cls(size, part_size, BucketUpload(_name(session, file, size, part_size, shape[3]), shape[4]))

    def format(self) -> str:
        """The upload as a client gives it back."""
        return f"{self.size}.{self.part_size}.{self.upload.name[-32:]}.{self.upload.id}"

    @property
    def count(self) -> int:
        """The number of its parts."""
        return -(-self.size // self.part_size)

    def size_of(self, number: int) -> int:
        """Bytes of a part, counted from 1."""
        return min(self.part_size, self.size - (number - 1) * self.part_size)


class MultipartPushes(Struct, frozen=True, eq=False):
    """The files that clients send in parts past this process, for all of its caches.

    Attributes:
        uploads: the files under pending names.
        find_session: tells of a session whether it lives.
        part_size: bytes of a part, unless a file would have more than `MAX_PARTS` of them.
        least: bytes from which a file is sent past this server.
        place: the URL at which clients reach the bucket.
        now: the time.
    """

    uploads: MultipartUploads
    find_session: FindSession
    part_size: int
    least: int
    place: str
    now: Callable[[], Timestamp]
    # The beginnings of names of which uploads may be left. What finds no place is swept within the hour.
    _ended: asyncio.Queue[str] = field(default_factory=lambda: asyncio.Queue(_MOST_ENDED))

    @property
    def sizes(self) -> range:
        """The bytes that a file has which is sent in parts."""
        return range(max(self.least, self.part_size + 1), MAX_FILE_SIZE + 1)

    async def begin(
        self, session: PushSession, file: PushedFile, size: int, has_room: Callable[[int], Awaitable[bool]]
    ) -> SentParts | None:
        """Begin the upload of a file; None: its session, or its principal, has too many or too long ones under way.

        Args:
            session: of the client.
            file: that it wants to send.
            size: its bytes, one of `sizes`.
            has_room: whether the cache has room for so many bytes.

        Raises:
            StorageError: it cannot be begun.
        """
        names = [upload.name for upload in await self.uploads.unfinished(_of_principal(session))]
        of_session = sum(name.startswith(_of_session(session)) for name in names)
        if of_session >= _MAX_OPEN or len(names) >= _MAX_OPEN_OF_PRINCIPAL:
            return None
        if not await has_room(size + sum(map(_size_in, names))):
            return None
        part_size = max(self.part_size, -(-size // MAX_PARTS // _MIB) * _MIB)
        name = _name(session, file, size, part_size, secrets.token_hex(16))
        return SentParts(size, part_size, BucketUpload(name, await self.uploads.begin(name)))

    def urls(self, sent: SentParts, first: int, count: int) -> Sequence[str]:
        """URLs of `count` parts from `first` on, which is counted from 1, or of those that there are.

        Raises:
            FormatError: there is no such part.
            PushRefused: more than `MAX_URLS` are wanted.
            StorageError: nothing can be signed at the moment.
        """
        if not 1 <= first <= sent.count:
            raise FormatError(f"the file has parts 1 to {sent.count}")
        if not 1 <= count <= MAX_URLS:
            raise PushRefused(f"1 to {MAX_URLS} URLs are given at once")
        numbers = range(first, min(first + count, sent.count + 1))
        return [self.uploads.part_url(sent.upload, number, sent.size_of(number)) for number in numbers]

    async def seize(self, sent: SentParts, etags: Sequence[str]) -> SeizedUpload | None:
        """The file that was sent; None: nothing is left of the upload.

        Raises:
            FormatError: these are not the parts that were sent, or not all of them; they are forgotten.
            StorageError: it cannot be told.
        """
        try:
            if len(etags) != sent.count or any(not 0 < len(etag) <= MAX_ETAG for etag in etags):
                raise FormatError(f"the file has {sent.count} parts, each with a tag")  # noqa: TRY301
            seized = await self.uploads.seize(sent.upload, etags)
            if seized is not None and seized.blob.size != sent.size:
                await seized.close()
                raise FormatError(f"the parts have {seized.blob.size} bytes, not {sent.size}")  # noqa: TRY301
        except FormatError:
            await self.forget(sent)
            raise
        return seized

    async def forget(self, sent: SentParts) -> None:
        """Remove what was sent. What cannot be removed now is swept later."""
        with suppress(StorageError):
            await self.uploads.forget(sent.upload)

    def ended(self, session: PushSession) -> None:
        """Have the uploads removed that a session has left behind."""
        with suppress(asyncio.QueueFull):
            self._ended.put_nowait(_of_session(session))

    async def sweep(self) -> None:
        """Remove the uploads of sessions that have ended, until cancelled: here at once, elsewhere within the hour."""
        while True:
            await self._sweep_dead()
            with suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    while True:
                        await self._forget_all(await self._ended.get())

    async def _sweep_dead(self) -> None:
        dead: dict[str, bool] = {}
        try:
            for upload in await self.uploads.unfinished():
                of_session = upload.name.rpartition("/")[0]
                if of_session not in dead:
                    dead[of_session] = await self._is_dead(of_session.rpartition("/")[2])
            for of_session, is_dead in dead.items():
                if is_dead:
                    await self._forget_all(f"{of_session}/")
        except StorageError as error:
            _log.warning("cannot look for uploads that were given up: %s", error)

    async def _is_dead(self, session: str) -> bool:
        found = await self.find_session(session)
        return found is None or found.ended is not None or found.seen < self.now() - SESSION_SECONDS

    async def _forget_all(self, prefix: str) -> None:
        try:
            left = await self.uploads.unfinished(prefix)
            for upload in left:
                await self.uploads.forget(upload)
        except StorageError as error:
            _log.warning("cannot remove uploads that were given up: %s", error)
        else:
            if left:
                _log.info("%d uploads that a session has left behind are removed from the bucket", len(left))


def _of_principal(session: PushSession) -> str:
    """The beginning of the names of all uploads that come to the cache from the principal of a session."""
    return short_digest(f"{session.cache}\0{session.principal}") + "/"


def _of_session(session: PushSession) -> str:
    """The beginning of the names of all uploads of a session."""
    return f"{_of_principal(session)}{session.id}/"


def _name(session: PushSession, file: PushedFile, size: int, part_size: int, drawn: str) -> str:
    return f"{_of_session(session)}{short_digest(str(file))}-{size}-{part_size}-{drawn}"


def _size_in(name: str) -> int:
    """The bytes of a file, as the name of its upload says them."""
    return int(name.rpartition("/")[2].split("-")[1])
