"""The digests of files that are made of chunks, for what reads all files once more (`fsck`, the scrub)."""

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import Protocol

from harmonia_py.cache.source import Pause
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.chunks.chunked_files import ChunkedFiles
from harmonia_py.chunks.windows import ChunksUnknown
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest, Digests
from harmonia_py.contents.pieces import SliceReader, portions
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.runtime.threads import Threads, in_thread


class _Sha256(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class ChunkedDigests:
    """`Digests` of all files; under the key of a recipe, that of the file which the recipe makes.

    Args:
        digests: reads all other files.
        files: makes files of chunks.
        read: reads slices of files.
        threads: hash.
    """

    def __init__(self, digests: Digests, files: ChunkedFiles, read: SliceReader, threads: Threads) -> None:
        self._digests = digests
        self._files = files
        self._read = read
        self._threads = threads

    async def digest(self, key: BlobKey, *, rate: float | None = None) -> Digest | None:
        """As in `Digests`."""
        if not key.startswith(RECIPES):
            return await self._digests.digest(key, rate=rate)
        try:
            download = await self._files.open(key, "")
            if download is None:
                return None
            digest, size = hashlib.sha256(), 0
            with download:
                parts = portions(download.pieces(0, None), self._read)
                while True:
                    read, pause = await in_thread(self._threads, partial(_feed, digest, parts, rate))
                    size += read
                    if pause is None:
                        break
                    await pause.wait()
        except ChunksUnknown:
            raise
        except StorageError:
            # A chunk of this file is missing or wrong: a fault of this file, which does not stop the check of others.
            return Digest(0, None, None)
        return Digest(size, Hash("sha256", digest.digest()), None)


def _feed(digest: _Sha256, parts: Iterator[bytes | memoryview | Pause], rate: float | None) -> tuple[int, Pause | None]:
    """Hash what there is; a rest after each second's worth of bytes keeps to the rate."""
    size = 0
    for part in parts:
        if isinstance(part, Pause):
            return size, part
        digest.update(part)
        size += len(part)
        if rate is not None and size >= rate:
            return size, Pause(1.0)
    return size, None
