"""The ports `Chunks` and `Packs`: rows of the catalog for NARs that are kept as chunks.

Bytes come first, rows second: a pack is put, then its chunks are entered; a recipe is put, then its file takes the
place of the file that was cut. Removal goes the other way round. Only the process that holds the lock of the collector
does this, so no chunk that it has found goes before it is used.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

from msgspec import Struct

from harmonia_py.catalog.caches import CacheId, Timestamp
from harmonia_py.catalog.nars import NarFile
from harmonia_py.chunks.recipe import ChunkHash
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.store_path import HashPart

PACK_BYTES: Final = 64 * 1024 * 1024
"""The size of a full pack: large enough for one request to a bucket, small enough to be written anew."""


class Place(NamedTuple):
    """The place of a chunk's frame.

    Attributes:
        pack: the key of the pack.
        offset: of the frame's first byte in the pack.
        size: bytes of the frame.
    """

    pack: str
    offset: int
    size: int


class DueFile(Struct, frozen=True):
    """A file that is to be kept as chunks.

    Attributes:
        file: as it is kept now.
        hash_parts: that may stand in its NAR: those of its path and of the path's references.
    """

    file: NarFile
    hash_parts: tuple[HashPart, ...]


DuePlace = tuple[Timestamp, str]
"""A place among the objects of a cache, in the order of their last use."""


class Due(Struct, frozen=True):
    """Files that are to be kept as chunks.

    Attributes:
        files: of the objects that were looked at, those that are due.
        after: the place of the last object that was looked at, or the given one when there was none.
        is_end: whether no object follows at this time.
    """

    files: Sequence[DueFile]
    after: DuePlace | None
    is_end: bool


class Chunks(Protocol):
    """Chunks and the files that are made of them. Each method raises `StorageError` when the catalog cannot tell."""

    async def due(
        self, cache: CacheId, caches: Collection[CacheId], unused_since: Timestamp, after: DuePlace | None, limit: int
    ) -> Due:
        """The files that are due among those of up to `limit` objects of a cache that come after a place.

        A file is due if it came as zstd, or to a cache that is pushed to uncompressed, and all objects that have it are
        unused since then and belong to `caches`.
        """

    async def known(self, chunks: Collection[ChunkHash]) -> Mapping[ChunkHash, int]:
        """The chunks whose bytes are there, with the lengths of their frames."""

    async def places(self, chunks: Collection[ChunkHash]) -> Mapping[ChunkHash, Place]:
        """The places of the chunks whose bytes are there."""

    async def scan_places(self, chunks: Collection[ChunkHash]) -> Mapping[ChunkHash, Place]:
        """As `places`, where no client waits: those of a download do not wait for it."""

    async def replace(self, file: Hash, made: NarFile, chunks: Collection[ChunkHash], *, now: Timestamp) -> bool:
        """Give the objects that have a file `made` in its place, which is made of these chunks; False: it is too late.

        It is too late when a chunk is not there any more, or the file has gone or is quarantined. If a file with the
        bytes of `made` is kept whole already, the objects get that one.

        Raises:
            BeingDeleted: an earlier recipe under that key is on its way out.
        """

    async def received(
        self,
        cache: CacheId,
        session: str,
        file: NarFile,
        chunks: Collection[ChunkHash],
        *,
        findings: str,
        now: Timestamp,
    ) -> bool:
        """As `Uploads.received`, of a file that is made of these chunks; False when one of them is not there."""

    async def lose(self, chunk: ChunkHash, *, with_pack: bool, now: Timestamp) -> Sequence[NarFile]:
        """Note that the bytes of a chunk, or of all chunks in its pack, are missing or wrong, until they come again.

        Returns some of the files that need these chunks; others are found when they are read.
        """


class PackedChunk(Struct, frozen=True):
    """A chunk in a pack.

    Attributes:
        chunk: its hash.
        offset: of its frame in the pack.
        size: bytes of its frame.
        is_used: whether a recipe needs it.
    """

    chunk: ChunkHash
    offset: int
    size: int
    is_used: bool = True


class Pack(Struct, frozen=True):
    """A pack to look at.

    Attributes:
        key: of the blob.
        size: number of its bytes.
        chunks: in the order of their places.
        used_size: bytes of the frames that were used at the last look.
    """

    key: str
    size: int
    chunks: tuple[PackedChunk, ...]
    used_size: int


class Packs(Protocol):
    """Packs, and the uses of their chunks. Each method raises `StorageError` when the catalog cannot tell."""

    async def unknown(self, keys: Collection[str]) -> Collection[str]:
        """Those of some keys under which the catalog knows no pack."""

    async def add(self, key: str, size: int, chunks: Sequence[PackedChunk], *, now: Timestamp) -> None:
        """Enter a pack that is whole and durable, with those of its chunks that no other pack has."""

    async def drop_uses(self, limit: int, *, now: Timestamp) -> int:
        """Drop up to `limit` uses of chunks by recipes that no object has any more; returns how many rows went."""

    async def to_look_at(self, limit: int, *, now: Timestamp) -> Sequence[Pack]:
        """Up to `limit` packs that have lost uses, or that were added and have none yet; then those never counted."""

    async def keep(self, key: str, used_size: int, *, look_at: Timestamp | None = None) -> None:
        """Leave a pack as it is, of which so many bytes are used, until it loses uses again, or until `look_at`."""

    async def move(self, old: Collection[str], *, now: Timestamp, garbage_from: Timestamp) -> None:
        """Remove packs, with the chunks that are still in them, which nothing uses.

        The bytes are garbage from `garbage_from` on: until then readers that have looked up a place find them.
        """
