"""The port `BlobStore`: bytes under keys.

A blob appears whole or not at all, is never changed, and carries a small dictionary of text beside its bytes. Who asks
for a blob that is just being written, by whichever process, reads it as it grows.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from harmonia_py.cache.source import FileSlice, Piece
from harmonia_py.errors import FormatError

# 244 characters hold `<hash part>-<the longest name>`; with what a file system's adapter adds it stays below 255 bytes.
_KEY: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z+\-._?=]{0,243}", re.ASCII)


class BlobKey(str):
    """The name of a blob: one component of a path that is never special, because it does not begin with a dot."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a key: up to 244 of the characters that names in a Nix store are made of.

        Raises:
            FormatError: anything else.
        """
        if _KEY.fullmatch(text) is None:
            raise FormatError("not the key of a blob")
        return cls(text)


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """An open blob. A context manager: leaving it releases what keeps the bytes at hand.

    Attributes:
        size: number of bytes; None while it is still being written.
        metadata: what was committed with it; empty while it is still being written.
        pieces: as in `Download`. Of a blob that is being written it yields `Pause` when nothing has been added, and
            raises `StorageError` when the writer gave up, died, or stands still.
        file: as in `Download`.
        redirect: where clients may fetch the bytes themselves.
        release: called once. What was opened stays readable until then, even when the blob is deleted.
    """

    size: int | None
    metadata: Mapping[str, str]
    pieces: Callable[[int, int | None], Iterator[Piece]]
    file: FileSlice | None = None
    redirect: str | None = None
    release: Callable[[], None] = _nothing

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What eviction needs to know of a blob that is whole.

    Attributes:
        key: its name.
        size: number of bytes.
        last_used: in seconds since the epoch; may lag behind by a minute.
    """

    key: BlobKey
    size: int
    last_used: float


class BlobWriter(Protocol):
    """A blob being written, by this writer alone. Its methods block: a thread calls them, one at a time.

    Every writer ends with `commit` or `abort`; what follows either has no effect.
    """

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes; readers of the growing blob see them at once.

        Raises:
            StorageError: the bytes could not be written; `StorageFull` when there is no room.
        """

    def commit(self, metadata: Mapping[str, str]) -> None:
        """Let the blob appear, whole and durable, with its metadata.

        Raises:
            StorageError: it will not appear. Who was reading it as it grew has had every byte nevertheless.
        """

    def abort(self) -> None:
        """Forget the blob: whoever reads it as it grows is cut."""


class BlobStore(Protocol):
    """Blobs on a disk, or wherever they live. Each method raises `StorageError` when it cannot tell."""

    async def open(self, key: BlobKey) -> Blob | None:
        """The blob, whole or as it grows; None when it is neither there nor being written. Counts as a use."""

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """The metadata of a whole blob, or None. Does not count as a use."""

    async def put(self, key: BlobKey, expected_size: int, *, replace: bool = False) -> BlobWriter | None:
        """Begin to write a blob of at most about `expected_size` bytes; None when it is there or being written.

        The choice is made once over all processes: of many who ask at the same time one gets a writer. With `replace`
        the blob that is there stays there until the new one is committed, and for good when it never is.

        Raises:
            StorageFull: there is no room for so much.
        """

    async def delete(self, key: BlobKey) -> None:
        """Remove a whole blob; nothing happens when there is none. Whoever has it open keeps reading."""

    def list(self) -> AsyncIterator[BlobInfo]:
        """Every whole blob once, in no order. What appears or goes meanwhile may be missing or there."""
