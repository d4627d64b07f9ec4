"""What `compressed.py` keeps in a blob store: zstd files, their hashes, and marks of NARs that proved to be wrong."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from harmonia_py.cache.blobs import Blob, BlobKey, BlobStore, BlobWriter
from harmonia_py.cache.lasting import Lasting, Standing, Watch
from harmonia_py.cache.zstd import NarCompressor, NarMismatch
from harmonia_py.errors import FormatError, StorageError, StorageFull
from harmonia_py.nix.hashes import Hash
from harmonia_py.nix.narinfo import NarUrl
from harmonia_py.nix.store_path import StorePath

_log = logging.getLogger(__name__)

T = TypeVar("T")

_MISMATCH: Final = ".mismatch"
# A disk that failed is left alone for so long, so that every request does not wait for it.
_REST_SECONDS: Final = 10.0
# The log need not repeat what is known more often than that.
_SAY_SECONDS: Final = 60.0
# FileHash and FileSize of so many files, each for so long: a miss costs a look at the disk.
_MAX_FACTS: Final = 16_384
_FACTS_SECONDS: Final = 60.0
# Who resumes a download waits so long at most for the rest of the file; then it gets all of it, as it comes.
_WHOLE_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.1


# `<hash part>…`, or `<NarHash>.nar?hash=<hash part>`.
_HASH_PART: Final = re.compile(r"\A([0-9a-z]{32})(?![0-9a-z])|\?hash=([0-9a-z]{32})\Z", re.ASCII)


class NotKept(Exception):
    """The blob store is of no use for this request; what is wanted is made in another way."""


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a kept file.

    Attributes:
        file_hash: of all of it.
        file_size: number of bytes.
        ca: the content address that its NAR was held against, as text, where that is another hash than the NarHash.
    """

    file_hash: Hash
    file_size: int
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class _Known:
    facts: FileFacts | None
    lasting: Lasting


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A NAR that was not what the store says, found while it was compressed.

    Attributes:
        store_path: whose files are wrong.
        expected: the NarHash in the store's database.
        actual: of the files; None when there were more bytes than NarSize says.
        found: in seconds since the epoch.
    """

    store_path: StorePath
    expected: Hash
    actual: Hash | None
    found: float


def key_of(url: NarUrl) -> BlobKey:
    """Where the file of `url` is kept: under its own name."""
    return BlobKey(str(url).removeprefix("nar/"))


def unit_of(key: BlobKey) -> str:
    """What goes when `key` goes: everything of one store path, which the hash part in its name tells."""
    found = _HASH_PART.search(key)
    return key if found is None else found[1] or found[2]


def metadata_of(compressor: NarCompressor) -> dict[str, str]:
    """What is kept with a finished file."""
    info = compressor.path_info
    return {
        "store_path": info.store_path,
        "nar_hash": str(info.nar_hash),
        "nar_size": str(info.nar_size),
        "file_hash": str(compressor.file_hash),
        "file_size": str(compressor.file_size),
    }


class KeptFiles:
    """A blob store that may fail, or not be there at all: then its methods raise `NotKept`, or know nothing.

    Args:
        blobs: the blob store.
        arrivals: whether a blob may have become whole there; without it, what is absent is looked for each time.
    """

    def __init__(self, blobs: BlobStore | None, arrivals: Watch | None = None) -> None:
        self._blobs = blobs
        self._watch = arrivals
        self._facts: dict[BlobKey, _Known] = {}
        self._rests_until = 0.0
        self._silent_until = 0.0
        if blobs is None:
            _log.warning("no directory to keep compressed NARs in: each download is compressed anew, without ranges")

    async def open(self, key: BlobKey) -> Blob | None:
        """The file, whole or as it grows."""
        return await self._ask(lambda blobs: blobs.open(key))

    async def whole(self, key: BlobKey) -> Blob | None:
        """The file once it is whole, whichever process writes it; None when it is given up or takes too long."""
        try:
            async with asyncio.timeout(_WHOLE_SECONDS):
                while (blob := await self.open(key)) is not None and blob.size is None:
                    blob.release()
                    await asyncio.sleep(_LOOK_SECONDS)
        except (NotKept, TimeoutError):
            return None
        return blob

    async def put(self, key: BlobKey, nar_size: int) -> BlobWriter | None:
        """Begin a file; None when it is there or begun. In the worst case it becomes as long as the NAR."""
        return await self._ask(lambda blobs: blobs.put(key, nar_size))

    async def metadata(self, key: BlobKey) -> Mapping[str, str] | None:
        """What was kept with a whole file; None also where nothing can be kept."""
        try:
            return await self._ask(lambda blobs: blobs.metadata(key))
        except NotKept:
            return None

    async def note(self, key: BlobKey, metadata: Mapping[str, str]) -> None:
        """Keep a few facts under a key; those that were there stay when it fails, and then the log says so."""

        async def write(blobs: BlobStore) -> None:
            writer = await blobs.put(key, 0, replace=True)
            if writer is not None:
                # Shielded: as long as nobody ends it, nobody else can write this one.
                await asyncio.shield(asyncio.to_thread(writer.commit, metadata))

        with suppress(NotKept):
            await self._ask(write)

    async def forget(self, key: BlobKey) -> None:
        """Remove a file."""
        self._facts.pop(key, None)
        with suppress(NotKept):
            await self._ask(lambda blobs: blobs.delete(key))

    async def facts(self, key: BlobKey) -> FileFacts | None:
        """Hash and size of a whole file."""
        known = self._facts.get(key)
        if known is not None and known.lasting.holds(time.monotonic()):
            return known.facts
        # What becomes whole while the question is under way counts as later.
        standing = await self._arrivals()
        known = self._facts.get(key)
        if known is not None and known.lasting.holds(time.monotonic()):
            return known.facts
        self._facts.pop(key, None)
        try:
            metadata = await self._ask(lambda blobs: blobs.metadata(key))
            if metadata is None:
                if standing is not None and key not in self._facts:
                    self._remember(key, None, standing)
                return None
            file_hash = Hash.parse(metadata["file_hash"], "sha256")
            facts = FileFacts(file_hash, int(metadata["file_size"]), metadata.get("ca"))
        except (NotKept, KeyError, ValueError, FormatError):
            return None
        self._remember(key, facts)
        return facts

    def learn(self, key: BlobKey, facts: FileFacts) -> None:
        """Remember what is known of a file that has just become whole."""
        self._remember(key, facts)
        if self._watch is not None:
            self._watch.look_again()

    def lasting(self, key: BlobKey, facts: FileFacts | None) -> Lasting | None:
        """How long `facts`, which this object gave, are right; None when that is not known any more."""
        known = self._facts.get(key)
        return known.lasting if known is not None and known.facts == facts else None

    def _remember(self, key: BlobKey, facts: FileFacts | None, *standings: Standing) -> None:
        while len(self._facts) >= _MAX_FACTS:
            del self._facts[next(iter(self._facts))]
        self._facts[key] = _Known(facts, Lasting(time.monotonic() + _FACTS_SECONDS, standings))

    async def _arrivals(self) -> Standing | None:
        """What stands while no file becomes whole; None where that cannot be told."""
        if self._watch is None:
            return None
        try:
            return await self._watch.standing()
        except StorageError:
            return None

    async def mark(self, key: BlobKey, error: NarMismatch) -> None:
        """Remember that the NAR of this file is wrong: an empty blob, for every process, also after a restart."""
        info = error.path_info
        metadata = {
            "store_path": info.store_path,
            "expected": str(info.nar_hash),
            "actual": str(error.nar_hash or ""),
            "found": str(time.time()),
        }
        await self.unmark(key)
        with suppress(NotKept, StorageError):  # it is in the log as well
            writer = await self.put(_mark_of(key), 0)
            if writer is not None:
                await asyncio.to_thread(writer.commit, metadata)

    async def unmark(self, key: BlobKey) -> None:
        """The NAR was right this time."""
        with suppress(NotKept):
            await self._ask(lambda blobs: blobs.delete(_mark_of(key)))

    async def mismatches(self) -> list[Mismatch]:
        """Everything that is marked.

        Raises:
            StorageError: the blob store cannot tell.
        """
        if self._blobs is None:
            return []
        keys = [info.key async for info in self._blobs.list() if info.key.endswith(_MISMATCH)]
        marks = [await self._blobs.metadata(key) for key in keys]
        return [_parse_mark(metadata) for metadata in marks if metadata is not None]

    async def _ask(self, question: Callable[[BlobStore], Awaitable[T]]) -> T:
        if self._blobs is None or time.monotonic() < self._rests_until:
            raise NotKept
        try:
            return await question(self._blobs)
        except StorageError as error:
            now = time.monotonic()
            # A full disk still has what it has: only a disk that fails is left alone.
            if not isinstance(error, StorageFull):
                self._rests_until = now + _REST_SECONDS
            if now > self._silent_until:
                self._silent_until = now + _SAY_SECONDS
                _log.warning("compressed NARs are not kept for now: %s", error)
            raise NotKept from error


def _mark_of(key: BlobKey) -> BlobKey:
    return BlobKey(key + _MISMATCH)


def _parse_mark(metadata: Mapping[str, str]) -> Mismatch:
    return Mismatch(
        store_path=StorePath(metadata["store_path"]),
        expected=Hash.parse(metadata["expected"]),
        actual=Hash.parse(metadata["actual"]) if metadata["actual"] else None,
        found=float(metadata["found"]),
    )
