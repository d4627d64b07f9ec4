"""Files of NARs that clients send straight to the bucket, past this server.

A client is given a URL for a *pending* name, which nothing reads. When the narinfo comes, or the client says that it
has sent the file, the file is first moved out of the client's reach, then read back and verified, and only then gets
its own name. So a URL that is still good overwrites nothing that is read.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct, field

from harmonia_py.errors import FormatError, StorageError
from harmonia_py.nix.hashes import short_digest
from harmonia_py.push.checking import Checks
from harmonia_py.push.claims import PushedFile
from harmonia_py.push.past_server.ports import DirectUploads, SeizedUpload
from harmonia_py.push.receiving import PushSession

_log = logging.getLogger(__name__)

# As long as a session lives.
_PENDING_SECONDS: Final = 86_400
_SWEEP_SECONDS: Final = 3600.0


class PendingUploads(Struct, frozen=True, eq=False):
    """The files that clients send past this process, for all of its caches.

    Attributes:
        uploads: the files under pending names.
        sizes: bytes from which a file is sent past this server, and up to which one request can send it, and one copy
            move it.
    """

    uploads: DirectUploads
    sizes: range
    _checks: Checks = field(default_factory=Checks)

    async def url(self, session: PushSession, file: PushedFile) -> str:
        """The URL to which the client sends a file.

        Raises:
            StorageError: nothing can be told.
        """
        return await self.uploads.url(_name(session, file))

    async def seize(self, session: PushSession, file: PushedFile) -> SeizedUpload | None:
        """The file that the principal of this session has sent to this cache as `file`; None when it has sent none.

        Raises:
            FormatError: it came with headers that every reader would get; it is removed.
            StorageError: it cannot be told.
        """
        try:
            return await self.uploads.seize(_name(session, file))
        except FormatError:
            await self.forget(session, file)
            raise

    async def is_received(
        self, session: PushSession, file: PushedFile, receive: Callable[[], Coroutine[Any, Any, None]]
    ) -> bool:
        """Run `receive` for a file; False while that goes on: the client asks again.

        Raises what `receive` raises.
        """
        return await self._checks.is_done(_name(session, file), receive)

    async def forget(self, session: PushSession, file: PushedFile) -> None:
        """Remove what was sent as `file`. What cannot be removed now is swept later."""
        with suppress(StorageError):
            await self.uploads.forget(_name(session, file))

    async def sweep(self) -> None:
        """Remove files that no narinfo followed, until cancelled."""
        while True:
            try:
                count = await self.uploads.sweep(_PENDING_SECONDS)
                if count:
                    _log.info("%d uploads that no narinfo followed are removed from the bucket", count)
            except StorageError as error:
                _log.warning("cannot look for uploads that were given up: %s", error)
            await asyncio.sleep(_SWEEP_SECONDS)


def _name(session: PushSession, file: PushedFile) -> str:
    """The pending name, one for all runs of a principal: after a push that was cut, the file need not come again.

    The name under which another principal sends the same file is another one, and cannot be guessed.
    """
    return short_digest(f"{session.cache}\0{session.principal}\0{file}")
