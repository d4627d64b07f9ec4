"""The digests of files that are made of chunks, for what reads all files once more (`fsck`, the scrub)."""

import hashlib
from collections.abc import Iterator

from msgspec import Struct

from harmonia_py.cache.source import Pause
from harmonia_py.catalog.nars import RECIPES
from harmonia_py.chunks.chunked_files import ChunkedFiles
from harmonia_py.chunks.windows import ChunksUnknown
from harmonia_py.contents.blobs import BlobKey
from harmonia_py.contents.fsck import Digest, Digests
from harmonia_py.contents.pieces import feed_all, portions
from harmonia_py.errors import StorageError
from harmonia_py.nix.hashes import Hash
from harmonia_py.runtime.threads import Threads


class ChunkedDigests(Struct, frozen=True, eq=False):
    """`Digests` of all files; under the key of a recipe, that of the file which the recipe makes.

    Attributes:
        digests: reads all other files.
        files: makes files of chunks.
        threads: hash.
    """

    digests: Digests
    files: ChunkedFiles
    threads: Threads

    async def digest(self, key: BlobKey, *, rate: float | None = None) -> Digest | None:
        """As in `Digests`."""
        if not key.startswith(RECIPES):
            return await self.digests.digest(key, rate=rate)
        try:
            download = await self.files.open(key, "")
            if download is None:
                return None
            digest, size = hashlib.sha256(), 0

            def take(part: bytes | memoryview) -> None:
                nonlocal size
                digest.update(part)
                size += len(part)

            with download:
                parts = portions(download.pieces(0, None))
                await feed_all(self.threads, _at_rate(parts, rate), take)
        except ChunksUnknown:
            raise
        except StorageError:
            # A chunk of this file is missing or wrong: a fault of this file, which does not stop the check of others.
            return Digest(0, None, None)
        return Digest(size, Hash("sha256", digest.digest()), None)


def _at_rate(parts: Iterator[bytes | memoryview | Pause], rate: float | None) -> Iterator[bytes | memoryview | Pause]:
    """The parts, with a rest after each second's worth of bytes."""
    size = 0
    for part in parts:
        yield part
        size += 0 if isinstance(part, Pause) else len(part)
        if rate is not None and size >= rate:
            yield Pause(1.0)
            size = 0
