"""The port `Adoption`: files of other caches, which a cache takes without their bytes."""

from typing import Protocol

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.nix.hashes import Hash


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
