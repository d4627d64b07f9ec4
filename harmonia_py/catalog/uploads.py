"""The ports `Uploads`, of pushes under way with what they have brought, and `Adoption`, of files of other caches."""

from collections.abc import Collection
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.objects import Document
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

SESSION_SECONDS: Final = 86_400
"""For so long a session lives after its last sign of life. From Nix 2.35 on a push may bring NARs for hours first."""
UNCLAIMED_SECONDS: Final = 7 * 86_400
"""For so long a file waits for its narinfo, and a document for its object, whatever their session does: all pushes of
one token without a segment behind `/push` are one session without an end."""
WAITING_SECONDS: Final = 3600
"""For so long an object waits for its references."""
LET_GO_SECONDS: Final = 600
"""For so long a file stays that the path it came for does not need: another path with its NAR may follow, whose client
was told that the file is here."""


class Session(Struct, frozen=True, kw_only=True):
    """One push. What it was told is present stays, and what it brought waits, while it shows signs of life.

    Attributes:
        id: of the client's choice, or made by the server.
        cache: where it pushes.
        principal: who pushes.
        begun: when.
        seen: its last sign of life.
        ended: when it was committed or given up.
    """

    id: str
    cache: CacheId
    principal: str
    begun: Timestamp
    seen: Timestamp
    ended: Timestamp | None = None


class Uploads(Protocol):
    """Pushes under way. Each method raises `StorageError` when the catalog cannot tell."""

    async def session(self, session: Session, *, end: bool = False) -> Session:
        """Begin the session, or note a sign of life of one that is known.

        With `end` its leases end, and the files that it alone has brought and not published go.

        Returns:
            It, as it stands.
        """

    async def expect(self, cache: CacheId, session: str, file_hash: Hash, blob_key: str, *, now: Timestamp) -> None:
        """A file is about to be written under this key: what is written from now on is not collected.

        Raises:
            BeingDeleted: what was there before is being deleted; try again a moment later.
        """

    async def received(
        self,
        cache: CacheId,
        session: str,
        file: NarFile,
        *,
        findings: str | None = None,
        in_place_of: str | None = None,
        now: Timestamp,
    ) -> None:
        """The file is here, whole and durable, and its hash is right. Seen by this cache's push URLs alone.

        It stays for every session that has brought it, or was told that it is here, until that session has ended or has
        published a path with it.

        Args:
            cache: that it was sent to.
            session: that it is part of.
            file: with its NAR's hash and size when it is checked already.
            findings: as in `Nars.checked`, then.
            in_place_of: another session, for which it need not stay any more.
            now: the time.

        Raises:
            BeingDeleted: the session ended since it expected the file, and no row has named its bytes since then;
                what was written of them is deleted.
        """

    async def forget(self, session: str, *, now: Timestamp) -> None:
        """Forget the files that a session has brought and not published: no row names their bytes, which stay."""

    async def find(self, cache: CacheId, file_hash: Hash) -> NarFile | None:
        """A file that was received for this cache, or that one of its objects has. Other caches' files are not told."""

    async def claim(self, cache: CacheId, session: str, file_hash: Hash, *, now: Timestamp) -> NarFile | None:
        """As `find`, of a file that was checked; what is found stays for this session from then on, as by `received`.

        One step looks for the file and has it stay: another session, which it stayed for, may end at any time.
        """

    async def attach(
        self, cache: CacheId, session: str | None, document: Document, keepers: Collection[HashPart], *, now: Timestamp
    ) -> None:
        """A document came. It goes with the objects `keepers` (hash parts), whether they are there or come later.

        Nothing shows it before one of them is published. Without a session it stays, whether they come or not, until
        room is needed.
        """


class Adoption(Protocol):
    """Takes files that another cache has. Raises `StorageError` when the catalog cannot tell."""

    async def adopt(self, cache: CacheId, session: str, file_hash: Hash, *, now: Timestamp) -> NarFile | None:
        """Have a cache receive a file that another one has, as by `Uploads.received`.

        One step looks for the file and takes it: the collector may have removed it since it was seen.

        Args:
            cache: that takes it.
            session: that the file becomes part of.
            file_hash: of the file.
            now: the time.

        Returns:
            The file, with the key of its bytes; None when it is gone or quarantined.

        Raises:
            BeingDeleted: its bytes are being deleted.
        """
