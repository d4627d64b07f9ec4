"""The port `Nars`: NARs by their hash, and the files that hold them."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.errors import HarmoniaError
from harmonia_py.nix.hashes import Hash

RECIPES: Final = "recipes/"
"""The prefix of the keys of recipes, each of a file that is made of chunks when it is asked for (`chunks/recipe`)."""
PACKS: Final = "packs/"
"""The prefix of the keys of packs, which hold the chunks."""

# Deleting the bytes of a file normally takes less than a second; after ten the disk is in trouble.
_DELETION_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.1


class BeingDeleted(HarmoniaError):
    """The bytes under this key are being deleted at this moment; a moment later they can be written anew."""


class NarFile(Struct, frozen=True, kw_only=True):
    """A file that holds a NAR, whole and durable. Objects of any caches share it.

    Attributes:
        file_hash: SHA-256 of the file.
        file_size: its length in bytes.
        compression: as in a narinfo.
        blob_key: of the bytes, or of the recipe that they are made by.
        nar_hash: of the NAR in it; None until the file is checked.
        nar_size: of that NAR in bytes; None as long as `nar_hash` is.
    """

    file_hash: Hash
    file_size: int
    compression: str
    blob_key: str
    nar_hash: Hash | None = None
    nar_size: int | None = None

    @property
    def is_chunked(self) -> bool:
        """Whether the file is made of chunks, when it is asked for."""
        return self.blob_key.startswith(RECIPES)


class Nars(Protocol):
    """NARs and their files. Each method raises `StorageError` when the catalog cannot tell.

    Bytes come first, the row second: `reserve` a key, write the bytes, then name them (`Uploads.received`,
    `Objects.publish`). A row goes first, its bytes later: the collector lists the key as garbage, then deletes.
    """

    async def reserve(self, blob_key: str) -> None:
        """Take a key from the list of garbage, so that bytes written under it after this call stay.

        Raises:
            BeingDeleted: it is too late: the bytes are being deleted.
        """

    async def file(self, file: Hash | str) -> NarFile | None:
        """The file with this hash, or under this key, unless it is quarantined."""

    async def checked(self, file: NarFile, findings: str) -> None:
        """Note what the check of a file's bytes has found, `nar_hash` and `nar_size` among it.

        Args:
            file: with all its attributes.
            findings: what else is known of the NAR (listing, debug files, references in its bytes), as JSON.
        """

    async def findings(self, nar_hash: Hash) -> str | None:
        """The findings of a NAR that `checked` was given."""

    async def quarantine(self, file_hash: Hash, reason: str, *, now: Timestamp) -> int | None:
        """Hide the objects that have a missing or wrong file, and those that reference them, until it comes again.

        Returns how many objects were hidden; None when the file is not known, or quarantined already.
        """


async def once_deleted(write: Callable[[], Awaitable[object]]) -> None:
    """Call `write` until the earlier bytes of its key are deleted.

    Raises:
        BeingDeleted: that takes too long.
    """
    end = time.monotonic() + _DELETION_SECONDS
    while True:
        try:
            await write()
        except BeingDeleted:
            if time.monotonic() > end:
                raise
        else:
            return
        await asyncio.sleep(_RETRY_SECONDS)
