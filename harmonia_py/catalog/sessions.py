"""The port `Sessions`: pushes as a client that began them knows them, by their id."""

from collections.abc import Collection, Mapping
from typing import Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.catalog.uploads import Session
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart


class Progress(Struct, frozen=True, kw_only=True):
    """The progress of a session.

    Attributes:
        received: files that arrived and belong to no published path yet.
        received_size: their bytes.
        present: paths that it was told are here, and those that it published.
        published: paths that it brought and readers see.
        waiting: paths that it brought and that wait for a reference.
    """

    received: int = 0
    received_size: int = 0
    present: int = 0
    published: int = 0
    waiting: int = 0


class Sessions(Protocol):
    """Sessions by their id. Each method raises `StorageError` when the catalog cannot tell."""

    async def find(self, session: str) -> Session | None:
        """The session; None when there was none of this id, or it is swept."""

    async def progress(self, session: str) -> Progress:
        """The progress of a session so far."""

    async def announce(self, cache: CacheId, session: str, hash_parts: Collection[HashPart], *, now: Timestamp) -> None:
        """Note that the session is going to bring these paths. They are leased from now on, for when they are here."""

    async def announced(self, cache: CacheId, session: str, hash_parts: Collection[HashPart]) -> frozenset[HashPart]:
        """The paths of which the session has a lease: it was told that they are here, or announced them."""

    async def nars(
        self, cache: CacheId, session: str, nar_hashes: Collection[Hash], *, now: Timestamp
    ) -> Mapping[Hash, NarFile]:
        """For those of these NARs that the cache has or was sent, a file; each stays as long as the session lives.

        What other caches have is not told.
        """

    async def files(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Mapping[HashPart, NarFile]:
        """The files that readers of the cache get for these paths; of those that it does not show, none."""

    async def blob_keys(self, cache: CacheId, hash_parts: Collection[HashPart]) -> Mapping[HashPart, str]:
        """The keys alone of what `files` tells: of ten thousand paths, nothing else is parsed."""
