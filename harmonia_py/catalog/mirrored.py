"""The ports `Mirrored` and `Realisations`, of what is kept of upstreams, and `Mismatches` of the local store."""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.objects import Publication, StoredObject
from harmonia_py.contents.kept_files import Mismatch
from harmonia_py.nix.narinfo import NarInfo
from harmonia_py.nix.store_path import HashPart, StorePath


class UpstreamNarInfo(Struct, frozen=True, kw_only=True):
    """A narinfo of an upstream.

    Attributes:
        narinfo: as the upstream gives it.
        upstream: its name.
        fetched: when it was fetched, in seconds since the epoch.
        max_age: seconds for which it is believed.
    """

    narinfo: NarInfo
    upstream: str
    fetched: float
    max_age: float


class MirroredObject(Struct, frozen=True, kw_only=True):
    """A path of an upstream whose NAR is kept.

    Attributes:
        upstream_narinfo: the narinfo of the upstream.
        stored: the object; its file may be of another compression.
    """

    upstream_narinfo: UpstreamNarInfo
    stored: StoredObject


class UpstreamRealisation(Struct, frozen=True, kw_only=True):
    """A realisation of an upstream.

    Attributes:
        output: SHA-256, in base-32, of the output of a derivation as `DrvOutput` writes it.
        text: as the upstream gives it.
        upstream: its name.
    """

    output: str
    text: bytes
    upstream: str


class Mirrored(Protocol):
    """The objects of the cache `MIRROR`. Each method raises `StorageError` when the catalog cannot tell."""

    async def find(self, hash_part: HashPart) -> MirroredObject | None:
        """An object, with the narinfo of its upstream."""

    async def objects(self, hash_part: HashPart) -> Sequence[StoredObject]:
        """The objects of a path in the caches `STORE` and `MIRROR`, whose files are in one storage, in this order."""

    async def keep(self, publication: Publication, narinfo: UpstreamNarInfo, *, now: Timestamp) -> StoredObject | None:
        """Publish an object with the narinfo of its upstream, in one transaction; the object as readers see it then.

        None: nothing was done, because readers saw an object of the path before, and the publication does not replace.

        Raises:
            BeingDeleted: as in `Objects.publish`.
        """

    async def refresh(self, narinfo: UpstreamNarInfo) -> None:
        """Replace the upstream's narinfo of an object; nothing happens when there is no such object."""

    async def forget(self, cache: CacheId, hash_part: HashPart, *, now: Timestamp) -> None:
        """Remove an object of the cache `MIRROR` or `STORE` at once: its bytes are wrong. They become garbage."""


class Realisations(Protocol):
    """Realisations of upstreams. Each method raises `StorageError` when the catalog cannot tell."""

    async def realisation(self, output: str) -> UpstreamRealisation | None:
        """The realisation of an output, as an upstream gave it."""

    async def keep_realisation(self, realisation: UpstreamRealisation, *, now: Timestamp) -> None:
        """Keep a realisation in the place of an earlier one."""


class Mismatches(Protocol):
    """Damaged paths of the local store. Each method raises `StorageError` when the catalog cannot tell."""

    async def note(self, mismatch: Mismatch) -> None:
        """Remember a mismatch in the place of an earlier one of the path."""

    async def clear(self, store_path: StorePath) -> None:
        """Forget the mismatch of a path, whose NAR was right this time."""

    async def all(self, limit: int) -> Sequence[Mismatch]:
        """Up to `limit` mismatches, the newest first."""
