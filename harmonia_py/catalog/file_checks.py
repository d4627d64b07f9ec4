"""The port `FileChecks`: when files were last read and found right, and files that were found wrong."""

from collections.abc import Collection, Sequence
from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.nix.hashes import Hash


class DueFile(Struct, frozen=True):
    """A file, and when it was last read and found right."""

    file: NarFile
    checked: Timestamp


class QuarantinedFile(Struct, frozen=True):
    """A file whose bytes were found to be missing or wrong.

    Attributes:
        file: as the catalog has it.
        since: when its bytes were found wrong.
        reason: in words.
        objects: store paths that have it, as `<cache>/<store path>`, a few of them.
    """

    file: NarFile
    since: Timestamp
    reason: str
    objects: tuple[str, ...]


class Health(Struct, frozen=True):
    """The state of all files.

    Attributes:
        files: number of files that are not quarantined.
        size: their bytes.
        oldest: when the one was read whose last check is the longest ago; None without files.
        quarantined: number of quarantined files.
        hidden: number of objects that readers do not see because of these.
    """

    files: int
    size: int
    oldest: Timestamp | None
    quarantined: int
    hidden: int


class FileChecks(Protocol):
    """Files by their last check. Each method raises `StorageError` when the catalog cannot tell."""

    async def due(self, limit: int) -> Sequence[DueFile]:
        """Up to `limit` files that are not quarantined, those first whose last check is the longest ago."""

    async def passed(self, file_hashes: Collection[Hash], *, now: Timestamp) -> None:
        """Note that files were read, and are right."""

    async def page(self, after: Hash | None, limit: int) -> Sequence[NarFile]:
        """Up to `limit` files that are not quarantined, in the order of their hashes."""

    async def quarantined(self, after: Hash | None, limit: int) -> Sequence[QuarantinedFile]:
        """Up to `limit` files that are quarantined, in the order of their hashes."""

    async def health(self) -> Health:
        """The state of all files."""
