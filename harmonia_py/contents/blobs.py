"""The port `BlobStore`: immutable bytes under keys, at rest.

A blob appears whole or not at all, is never changed, and carries a small dictionary of text beside its bytes. Bytes
that are still arriving are the business of the port `Spool`.
"""

import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final, Protocol, Self, runtime_checkable

from msgspec import Struct

from harmonia_py.cache.source import Download, FileSlice, Piece, Redirect, always, nothing
from harmonia_py.errors import FormatError

# 244 characters hold `<hash part>-<the longest name>`; with what a file system's adapter adds it stays below 255 bytes.
_COMPONENT: Final = r"[0-9A-Za-z][0-9A-Za-z+\-._?=]{0,243}"
# `<cache>/log/<derivation>` has three.
_MAX_COMPONENTS: Final = 4
# One look at the whole of a key: a directory of a hundred thousand is parsed name by name.
_KEY: Final = re.compile(f"{_COMPONENT}(?:/{_COMPONENT}){{0,{_MAX_COMPONENTS - 1}}}", re.ASCII)


class BlobKey(str):
    """The name of a blob: components of a path, none of which is special, because none begins with a dot."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key: one to four components, each up to 244 of the characters that names in a Nix store are made of.

        Raises:
            FormatError: anything else.
        """
        if _KEY.fullmatch(text) is None:
            raise FormatError("not the key of a blob")
        return cls(text)


class Blob(Struct, frozen=True, kw_only=True):
    """An open blob. A context manager: leaving it releases what keeps the bytes at hand.

    Attributes:
        size: number of bytes.
        metadata: what was put with it.
        pieces: as in `Download`.
        file: as in `Download`.
        redirect: as in `Download`.
        is_unchanged: as in `Download`.
        release: called once. What was opened stays readable until then, even when the blob is deleted.
    """

    size: int
    metadata: Mapping[str, str]
    pieces: Callable[[int, int | None], Iterator[Piece]]
    file: FileSlice | None = None
    redirect: Redirect | None = None
    is_unchanged: Callable[[], bool] = always
    release: Callable[[], None] = nothing

    def download(self, otherwise: str) -> Download:
        """This blob as a download, which releases it; tagged with its hash, or `otherwise` where that was not noted."""
        etag = self.metadata.get("file_hash", otherwise).removeprefix("sha256:")
        return Download(
            size=self.size,
            etag=etag,
            pieces=self.pieces,
            file=self.file,
            redirect=self.redirect,
            is_unchanged=self.is_unchanged,
            release=self.release,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class SpooledFile(Struct, frozen=True):
    """A file of a spool that has all its bytes; good until its writer is closed.

    Attributes:
        path: of the file.
        fd: open, for reading and for attributes.
        size: number of bytes.
    """

    path: str
    fd: int
    size: int


IN_USE: Final = math.inf
"""The last use of a blob that this process is reading."""


class BlobInfo(Struct, frozen=True):
    """The facts of a blob that eviction needs.

    Attributes:
        key: its name.
        size: number of bytes.
        last_used: in seconds since the epoch, and may lag behind by a minute; `IN_USE` while this process reads it.
    """

    key: BlobKey
    size: int
    last_used: float


class BlobStore(Protocol):
    """Blobs on a disk, or wherever they live. Each method raises `StorageError` when it cannot tell."""

    async def open(self, key: BlobKey) -> Blob | None:
        """The blob, or None. Counts as a use."""

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a blob, or None. Does not count as a use."""

    async def put(
        self, key: BlobKey, content: SpooledFile | bytes, metadata: Mapping[str, str], *, durable: bool = False
    ) -> None:
        """Let a blob appear, whole, with its metadata; it takes the place of one that was there.

        A file is taken from its spool where that is on the same file system; the caller closes its writer afterwards
        in any case. A name never leads to bytes that a power cut has lost; when `durable`, the name survives as well.

        Raises:
            StorageError: it will not appear, and what was there before is there still; `StorageFull`: for want of room.
        """

    async def delete(self, key: BlobKey) -> None:
        """Remove a blob; nothing happens when there is none. A reader that has it open keeps reading."""

    def list(self) -> AsyncIterator[BlobInfo]:
        """Every blob once, in no order. What appears or goes meanwhile may be missing or there."""


@runtime_checkable
class OpensAtOnce(Protocol):
    """A `BlobStore` whose blobs can be opened by the event loop, where that does not wait for the disk."""

    def open_at_once(self, key: BlobKey) -> Blob | None:
        """The blob, whose first bytes are in memory; None says nothing of whether there is one. Counts as a use."""
