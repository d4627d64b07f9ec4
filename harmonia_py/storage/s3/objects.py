"""Objects of a bucket by their names, whatever they are for.

    <prefix>/.probe    what was written last to see whether that can be done

The first bytes of an object come with what is known of it: opening a small one is all that reading it takes.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from typing import Final

from msgspec import Struct
from obstore.exceptions import BaseError
from obstore.store import S3Store

from harmonia_py.cache.source import Piece
from harmonia_py.contents.blobs import Blob
from harmonia_py.storage.s3.arriving import Arrivals
from harmonia_py.storage.s3.errors import UnlessAbsent, is_beyond, translated
from harmonia_py.storage.s3.owner import Identity, Owner
from harmonia_py.storage.s3.settings import S3Settings
from harmonia_py.storage.s3.stores import body_store, copy_store, in_time, question_store
from harmonia_py.storage.s3.tapped import TappedObjects

HEAD_BYTES: Final = 64 * 1024
"""Of an object that come with the answer that it is there."""
_PROBE: Final = ".probe"
# Load balancers ask every few seconds, and each write costs money.
_PROBE_SECONDS: Final = 10.0
# Names of one request.
_DELETIONS: Final = 1000


class Found(Struct, frozen=True):
    """An object.

    Attributes:
        size: its bytes.
        etag: tells it from others of its name; None when the bucket says none.
        attributes: its headers.
        head: its first bytes.
    """

    size: int
    etag: str | None
    attributes: Mapping[str, str]
    head: bytes


class Objects:
    """The objects of a bucket. It belongs to the event loop in which it is made, after any fork.

    Args:
        settings: of the bucket, which is not asked before the first object is.
        identity: of the catalog that the objects belong to; None where no other catalog can have this prefix.

    Attributes:
        owner: is asked before anything is changed.
        questions: a client for what is answered at once.
        bodies: a client for what takes as long as it takes.

    Raises:
        StorageError: the bucket cannot be opened.
    """

    def __init__(self, settings: S3Settings, identity: Identity | None = None) -> None:
        with translated("open the bucket"):
            # Not before the fork: what is inside has threads.
            self.questions = question_store(settings)
            self.bodies = body_store(settings)
            self._copies = copy_store(settings)
        self.owner = Owner(settings, self.questions, identity)
        self._probing, self._takes_until = asyncio.Lock(), 0.0
        self._arrivals = Arrivals()
        is_plain = settings.endpoint is not None and settings.endpoint.startswith("http:")
        self._tapped = TappedObjects(self.bodies) if is_plain else None

    async def aclose(self) -> None:
        """End what is read."""
        await self._arrivals.aclose()
        await self.owner.aclose()
        if self._tapped is not None:
            await self._tapped.aclose()

    async def look(self, name: str, size: int) -> Found | None:
        """The object of a name with its first bytes, at most `size`; None when there is none.

        Raises:
            StorageError: the bucket cannot tell.
        """
        with translated("ask the bucket for a file"), UnlessAbsent():
            return await in_time(_get(self.questions, name, size))
        return None

    async def open(self, name: str) -> Blob | None:
        """An object that is no blob; its metadata are its headers."""
        found = await self.look(name, HEAD_BYTES)
        if found is None:
            return None
        return Blob(size=found.size, metadata=found.attributes, pieces=partial(self.pieces, name, found))

    def pieces(self, name: str, found: Found, start: int, stop: int | None) -> Iterator[Piece]:
        """The bytes of an object that was looked at, in a thread; `start` and `stop` are of `Blob.pieces`."""
        end = found.size if stop is None else min(stop, found.size)
        if start < min(len(found.head), end):
            yield found.head[start:end]
            start = len(found.head)
        if self._tapped is not None:
            start = yield from self._tapped.pieces(name, found.etag, start, end)
        if start < end:
            yield from self._arrivals.pieces(end - start, partial(self._fetch, name, found.etag, start, end))

    async def copy(self, name: str, to: str) -> bool:
        """Let an object appear under another name as well; False when there is none. The bucket copies by itself.

        Raises:
            StorageError: it will not appear.
        """
        await self.owner.check()
        with translated("copy a file in the bucket"), UnlessAbsent():
            await self._copies.copy_async(name, to)
            return True
        return False

    async def names(self, prefix: str, *, before: float) -> Sequence[str]:
        """The names below `prefix` of objects that were last changed before."""
        found: list[str] = []
        pages = self.questions.list(prefix)
        with translated("list the bucket"):
            while (page := await in_time(anext(pages, None))) is not None:
                found += [one["path"] for one in page if one["last_modified"].timestamp() < before]
        return found

    async def remove(self, names: Sequence[str]) -> None:
        """Remove objects; nothing happens where there is none."""
        if names:
            await self.owner.check()
        for start in range(0, len(names), _DELETIONS):
            with translated("delete files of the bucket"), UnlessAbsent():
                await in_time(self.questions.delete_async(names[start : start + _DELETIONS]))

    async def probe(self) -> None:
        """Put a small object, unless the bucket took one a moment ago.

        Raises:
            StorageError: it does not.
        """
        async with self._probing:
            if time.monotonic() < self._takes_until:
                return
            await self.owner.check()
            with translated("write to the bucket"):
                await in_time(self.questions.put_async(_PROBE, b"", use_multipart=False))
            self._takes_until = time.monotonic() + _PROBE_SECONDS

    async def _fetch(self, name: str, etag: str | None, start: int, end: int, portion: int) -> AsyncIterator[bytes]:
        with translated("read a file of the bucket"):
            # Another object of this name would have other bytes behind those that were sent.
            answer = await self.bodies.get_async(name, options={"range": (start, end), "if_match": etag})
        return _translated(answer.stream(min_chunk_size=portion))


async def _get(store: S3Store, key: str, size: int) -> Found:
    try:
        answer = await store.get_async(key, options={"range": (0, size)})
    except BaseError as error:
        if not is_beyond(error):
            raise
        answer = await store.get_async(key, options={"head": True})
        return Found(0, answer.meta["e_tag"], answer.attributes, b"")
    head = bytes(await answer.bytes_async())
    return Found(answer.meta["size"], answer.meta["e_tag"], answer.attributes, head)


async def _translated(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    with translated("read a file of the bucket"):
        async for portion in stream:
            yield portion
