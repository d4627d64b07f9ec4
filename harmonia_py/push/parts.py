"""Files that clients send in parts: large ones, past proxies that limit a body, and those of pushes that were cut.

A file is known by its NAR until all of it is here: a client that compresses while it sends does not know the hash of
the file before. Parts of any length may come over days, to any worker; each says where it begins. When the client says
that the file is whole, it is checked and kept as every pushed file is.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace

from harmonia_py.catalog.caches import CacheId
from harmonia_py.catalog.objects import Size, Sizes
from harmonia_py.errors import FormatError, Overloaded, PushConflict, StorageError
from harmonia_py.nix.hashes import Hash, short_digest
from harmonia_py.push.checking import Checks
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.partial_files import PartialFile, PartialFiles
from harmonia_py.push.receiving import PushSession, Receiver
from harmonia_py.runtime.threads import Threads, in_thread

_log = logging.getLogger(__name__)

PART_SECONDS: Final = 86_400
"""How long a file waits for its next part: as long as a session lives."""
MAX_PART_BYTES: Final = 64 * 1024 * 1024
"""Proxies that limit a body allow 100 MB."""
_SWEEP_SECONDS: Final = 3600.0


class PartUploads(Struct, frozen=True, eq=False):
    """The files that clients send to one cache in parts.

    Attributes:
        files: the partial files.
        receiver: checks whole files and keeps them.
        threads: write and read files.
    """

    files: PartialFiles
    receiver: Receiver
    threads: Threads
    _checks: Checks = field(default_factory=Checks)

    async def size(self, session: PushSession, nar: "PartName") -> int:
        """Bytes that are here: where the next part begins.

        Raises:
            Overloaded: another request is adding to the file, perhaps one whose client has left: ask again.
            StorageError: it cannot be told.
        """
        if not await self.taken(session.cache, session.principal, nar):
            return 0
        file = await self._open(session, nar)
        await in_thread(self.threads, file.close)
        return file.size

    async def taken(self, cache: CacheId, principal: str, nar: "PartName") -> int:
        """Bytes of a file that are here at this moment, perhaps while a request adds to them.

        Raises:
            StorageError: it cannot be told.
        """
        return await self.files.size(nar.key(cache, principal))

    async def add(self, session: PushSession, nar: "PartName", offset: int, portions: AsyncIterator[bytes]) -> int:
        """Add a part that begins at `offset`; returns how many bytes are here then. Bytes that were here are skipped.

        Raises:
            PushConflict: it begins behind the end of what is here.
            Overloaded: another request is adding to the file.
            StorageError: it cannot be written; the bytes before it stay.
        """
        file = await self._open(session, nar)
        try:
            if offset > file.size:
                raise PushConflict(f"parts: {file.size} bytes of it are here, and this part begins at {offset}")
            passed_over = file.size - offset
            async for portion in portions:
                if passed_over >= len(portion):
                    passed_over -= len(portion)
                    continue
                await in_thread(self.threads, file.write, portion[passed_over:])
                passed_over = 0
            return file.size
        finally:
            await in_thread(self.threads, file.close)

    async def finish(self, session: PushSession, nar: "PartName", file: PushedFile, file_size: int) -> bool:
        """Check a whole file and keep it; False while that goes on: the client asks again.

        Args:
            session: of the client.
            nar: the name that it had so far.
            file: the hash and the compression that the client says it has.
            file_size: the length that the client says it has.

        Raises:
            FormatError: it has another hash or size, or holds no NAR; it is removed.
            PushConflict: not all of it is here.
            Overloaded: another request has it.
            StorageError: it cannot be kept.
        """
        check = partial(self._finish, session, nar, file, file_size)
        return await self._checks.is_done(nar.key(session.cache, session.principal), check)

    async def sweep(self) -> None:
        """Remove files whose next part never came, until cancelled."""
        while True:
            try:
                await self.files.sweep(PART_SECONDS)
            except StorageError as error:
                _log.warning("cannot look for parts of files that were given up: %s", error)
            await asyncio.sleep(_SWEEP_SECONDS)

    async def _finish(self, session: PushSession, nar: "PartName", file: PushedFile, file_size: int) -> None:
        whole = await self._open(session, nar)
        try:
            if whole.size != file_size:
                raise PushConflict(f"parts: {whole.size} bytes of it are here, not {file_size}")
            try:
                await self.receiver.receive_whole(session, file, whole)
            except FormatError:
                await in_thread(self.threads, whole.remove)
                raise
            # The blob store has given the bytes another name.
            await in_thread(self.threads, whole.remove)
        finally:
            await in_thread(self.threads, whole.close)

    async def _open(self, session: PushSession, nar: "PartName") -> PartialFile:
        file = await self.files.open(nar.key(session.cache, session.principal))
        if file is None:
            raise Overloaded("another request is sending this file")
        return file


class PartName(Struct, frozen=True):
    """The name of a file while it comes in parts: the hash of its NAR, and its compression."""

    nar_hash: Hash
    compression: str

    @classmethod
    def parse(cls, text: str) -> "PartName":
        """Read `<NarHash>.nar.zst`.

        Raises:
            FormatError: another shape.
        """
        # It has the shape of a whole file's name, with the hash of the NAR in place of the file's.
        file = PushedFile.parse(text)
        return cls(file.file_hash, file.compression)

    def key(self, cache: CacheId, principal: str) -> str:
        """The name among all partial files: each principal has files of its own in each cache."""
        return _prefix(cache) + short_digest(f"{cache}\0{principal}\0{self.nar_hash}\0{self.compression}")


def _prefix(cache: CacheId) -> str:
    """The beginning of the names of all partial files of a cache."""
    return f"{cache}-"


class SizesWithParts(Struct, frozen=True, eq=False):
    """`Sizes` of caches with the files that come to them in parts, which no row names until they are whole.

    Attributes:
        sizes: of the catalog.
        files: on this machine.
    """

    sizes: Sizes
    files: PartialFiles

    async def size(self, cache: CacheId | None) -> Size:
        """As in `Sizes`."""
        size = await self.sizes.size(cache)
        if cache is None:
            return replace(size, size=size.size + await self.files.taken(""))
        return replace(size, incoming_size=size.incoming_size + await self.files.taken(_prefix(cache)))
