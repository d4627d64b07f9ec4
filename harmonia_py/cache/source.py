"""The port `Source`: anything that has store paths; and `Download`, what a source hands out.

The local store, an upstream, the mirror and what was pushed are sources. `None` means "it is not here"; a source that
cannot tell raises a `HarmoniaError`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import CancelledError
from enum import StrEnum
from typing import Any, Final, Protocol, Self

from msgspec import Struct

from harmonia_py.cache.found import Found
from harmonia_py.cache.validity import Validity
from harmonia_py.errors import StorageError
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.realisation import DrvOutput, Realisation
from harmonia_py.nix.store_path import HashPart, StorePath


class FileSlice(Struct, frozen=True):
    """Bytes of an open file, to be sent without passing through memory.

    Attributes:
        fd: owned by the generator that yielded the slice; open until that generator is resumed or closed.
        offset: first byte.
        size: number of bytes. The file may have become shorter: its sender must notice and cut the transfer.
    """

    fd: int
    offset: int
    size: int


class Pause(Struct, frozen=True):
    """Nothing to send yet. The event loop waits, and threads only where they have nothing else to do.

    Attributes:
        seconds: come back after so many, where nothing wakes.
        woken: returns when there may be more to send; None when only time tells.
        woken_in_thread: blocks a thread until there may be more to send; None when only time tells.
    """

    seconds: float
    woken: Callable[[], Awaitable[object]] | None = None
    woken_in_thread: Callable[[], object] | None = None

    @classmethod
    def until_done(
        cls,
        call: Callable[[], Coroutine[Any, Any, object]],
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        error: StorageError,
    ) -> Self:
        """A pause until `call` has run in the event loop.

        A thread waits for it as well, for at most so many `seconds`. It then gets the `error`, as it does when the call
        is given up or the loop has ended.
        """

        def wait() -> None:
            coroutine = call()
            try:
                future = asyncio.run_coroutine_threadsafe(coroutine, loop)
            except RuntimeError:  # the loop has ended
                coroutine.close()
                raise error from None
            try:
                future.result(seconds)
            except (TimeoutError, CancelledError):
                future.cancel()
                raise error from None

        return cls(0.0, call, wait)

    async def wait(self) -> None:
        """Return when it is worth coming back."""
        await (asyncio.sleep(self.seconds) if self.woken is None else self.woken())

    def wait_in_thread(self) -> None:
        """Block the thread until it is worth coming back."""
        if self.woken_in_thread is None:
            time.sleep(self.seconds)
        else:
            self.woken_in_thread()


Piece = bytes | FileSlice | Pause
"""The parts of a download. A plain generator yields them; it may block on the disk, so a thread resumes it."""


Redirect = Callable[[bool], Awaitable[str | None]]
"""Tells a URL at which a client gets the bytes itself, for a while; None for no client of such a cache.

The argument says whether the cache is public. Raises `StorageError` when nothing can be told.
"""


def nothing() -> None:
    """The `release` of a download that needs none."""


def always() -> bool:
    """The `is_unchanged` of a download in memory."""
    return True


class Download(Struct, frozen=True, kw_only=True):
    """A representation that can be sent, from any byte on.

    A context manager: leaving it releases what protects the bytes from being deleted.

    Attributes:
        size: number of bytes in all; None when it will be known only at the end, and then there are no ranges of it.
        etag: strong validator without quotes: equal for equal bytes, for ever.
        pieces: called with the first byte and the byte after the last, yields what lies between. It raises
            `StorePathChanged` or `StorageError` when the bytes cannot be had, also midway: then the transfer is cut.
        file: all of it as a slice of an open file, when it is one; the descriptor is good until `release`.
        data: all of it, when it is in memory.
        redirect: gives a URL to which the client may be sent instead; None when the bytes are here alone.
        whole: when `size` is None, waits until all bytes are there, for a client that has some of them already, and
            returns their download, which the caller releases; None when that takes too long or they will not come.
        made: when the bytes have to be computed first, and till then only `etag` is known: makes them, and returns
            their download, which the caller releases; None when they are not there any more. `pieces` is never called.
        validity: how long this download may be given again without asking the source; None: unknown.
        is_unchanged: whether `file` has the bytes that it had when it was opened, as far as a look of a microsecond can
            tell; once it has not, it is not given again.
        release: called once, when nothing of this download is needed any more.
    """

    size: int | None
    etag: str
    pieces: Callable[[int, int | None], Iterator[Piece]]
    file: FileSlice | None = None
    data: bytes | None = None
    redirect: Redirect | None = None
    whole: "Callable[[], Awaitable[Download | None]] | None" = None
    made: "Callable[[], Awaitable[Download | None]] | None" = None
    validity: Validity | None = None
    is_unchanged: Callable[[], bool] = always
    release: Callable[[], None] = nothing

    @classmethod
    def of_bytes(cls, data: bytes, etag: str) -> Self:
        """A download of bytes that are in memory."""
        return cls(size=len(data), etag=etag, pieces=lambda start, stop: iter((data[start:stop],)), data=data)

    @classmethod
    def to_be_made(cls, etag: str, make: "Callable[[], Awaitable[Download | None]]") -> Self:
        """A download of bytes that `make` computes, when they are wanted."""
        return cls(size=None, etag=etag, pieces=lambda _start, _stop: iter(()), made=make)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class NotAtOnce(Exception):
    """A NAR may be there, but not as a file that can be opened without waiting for the disk."""


class Asker(Struct, frozen=True):
    """On whose behalf a NAR is asked for.

    Attributes:
        client: an opaque name; scarce resources are shared out among clients.
        begins: whether bytes that are not there may be made or fetched; otherwise only what is known of them is told,
            and `pieces` of the answer raises `StorageError`.
        at_once: whether only a kept file is of use that can be opened without waiting for the disk. A source that may
            have the NAR in another form, or cannot tell, raises `NotAtOnce`; nothing begins.
    """

    client: str = ""
    begins: bool = True
    at_once: bool = False


UNNAMED: Final = Asker()
AT_ONCE: Final = Asker(begins=False, at_once=True)


class DocumentKind(StrEnum):
    """The kinds of documents that a cache has of its store paths, besides narinfos."""

    LISTING = "listing"
    """The `.ls` of a path, named by its hash part: JSON of its tree with offsets into the uncompressed NAR."""
    LOG = "log"
    """The build log of a derivation, named by its base name or its hash part: text, not compressed."""


class Source(Protocol):
    """Something that has store paths. Every method answers None for what it does not have."""

    async def narinfo(self, hash_part: HashPart) -> Found | None:
        """The narinfo of the valid path with this hash part, where it comes from, and how long it is right."""

    async def nar(self, url: NarUrl, asker: Asker = UNNAMED) -> Download | None:
        """The NAR that a narinfo of this source named, or None when the URL is not one of its own."""

    async def document(self, kind: DocumentKind, name: StorePath | HashPart) -> Download | None:
        """The document of this kind and name."""

    async def realisation(self, output: DrvOutput) -> Realisation | None:
        """The realisation of an output of a content-addressed derivation."""
