"""The port `Source`: anything that has store paths; and `Download`, what a source hands out.

The local store, an upstream, the mirror and what was pushed are sources. `None` means "it is not here"; a source that
cannot tell raises a `HarmoniaError`.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from harmonia_py.nix.narinfo import NarInfo, NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath


@dataclass(frozen=True, slots=True)
class FileSlice:
    """Bytes of an open file, to be sent without passing through memory.

    Attributes:
        fd: owned by the generator that yielded the slice; open until that generator is resumed or closed.
        offset: first byte.
        size: number of bytes. The file may have become shorter: whoever sends it must notice and cut the transfer.
    """

    fd: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing to send yet: come back after so many seconds. Only the event loop waits, never a thread."""

    seconds: float


Piece = bytes | FileSlice | Pause
"""What a download is made of. A plain generator yields pieces; it may block on the disk, so a thread resumes it."""


def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A representation that can be sent, from any byte on.

    A context manager: leaving it releases what protects the bytes from being deleted.

    Attributes:
        size: number of bytes in all; None when it will be known only at the end, and then there are no ranges of it.
        etag: strong validator without quotes: equal for equal bytes, for ever.
        pieces: called with the first byte and the byte after the last, yields what lies between. It raises
            `StorePathChanged` or `StorageError` when the bytes cannot be had, also midway: then the transfer is cut.
        file: all of it as a slice of an open file, when it is one; the descriptor is good until `release`.
        redirect: where to send the client instead; `pieces` is then never called.
        whole: when `size` is None, waits for the same bytes with their size, for who has some of them already; the
            caller releases it. It answers None when that takes too long or they will not come.
        release: called once, when nothing of this download is needed any more.
    """

    size: int | None
    etag: str
    pieces: Callable[[int, int | None], Iterator[Piece]]
    file: FileSlice | None = None
    redirect: str | None = None
    whole: "Callable[[], Awaitable[Download | None]] | None" = None
    release: Callable[[], None] = _nothing

    @classmethod
    def of_bytes(cls, data: bytes, etag: str) -> Self:
        """A download of bytes that are in memory."""
        return cls(size=len(data), etag=etag, pieces=lambda start, stop: iter((data[start:stop],)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class Source(Protocol):
    """Something that has store paths. Every method answers None for what it does not have."""

    async def narinfo(self, hash_part: HashPart) -> NarInfo | None:
        """The narinfo of the valid path with this hash part, with the signatures this source knows."""

    async def nar(self, url: NarUrl) -> Download | None:
        """The NAR that a narinfo of this source named, or None when the URL is not one of its own."""

    async def listing(self, hash_part: HashPart) -> Download | None:
        """The `.ls` of the path: JSON of its tree with offsets into the uncompressed NAR."""

    async def log(self, derivation: StorePath | HashPart) -> Download | None:
        """The build log of a derivation, as text, not compressed."""

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """What a content-addressed derivation's output was realised as."""
