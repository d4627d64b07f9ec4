"""The body of a recipe that is pushed: chunks that the cache lacks, one frame behind the other, and then the recipe."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from msgspec import Struct

from harmonia_py.chunks.recipe import Recipe
from harmonia_py.contents.blobs import SpooledFile
from harmonia_py.contents.spool import Spool, SpoolWriter
from harmonia_py.errors import PushTooLarge
from harmonia_py.push.receiving import passing_key
from harmonia_py.runtime.threads import Threads, in_thread

MAX_RECIPE_BYTES: Final = 8 * 1024 * 1024
"""Of a recipe, and of its columns."""
MAX_SEGMENTS: Final = 200_000
"""Of a recipe: the chunks of some 25 GB of NAR, which take some 100 MB of memory while they are looked at."""
MAX_SENT_BYTES: Final = 64 * 1024 * 1024
"""Of the chunks that come with a recipe: proxies that limit a body allow 100 MB. What lacks more is sent whole."""


class RecipeBody(Struct, frozen=True, eq=False):
    """A body that has come. Close it.

    Attributes:
        text: of the recipe.
        writer: of the chunks; None when none came.
        file: with the chunks.
        threads: parse the recipe, and close the file.
    """

    text: bytes
    writer: SpoolWriter | None
    file: SpooledFile | None
    threads: Threads

    @classmethod
    async def receive(
        cls, spool: Spool, threads: Threads, sent_bytes: int, portions: AsyncIterator[bytes]
    ) -> "RecipeBody":
        """Take in a body, with so many bytes of chunks.

        Raises:
            PushTooLarge: the recipe is too long.
            StorageError: the chunks cannot be written.
        """
        writer = await spool.begin(passing_key(), sent_bytes) if sent_bytes else None
        try:
            text = await _pour(writer, threads, sent_bytes, portions)
            file = None if writer is None else await in_thread(threads, writer.finish)
        except BaseException:
            if writer is not None:
                await in_thread(threads, writer.close)
            raise
        return cls(text, writer, file, threads)

    async def recipe(self) -> Recipe:
        """The recipe as it came; the lengths of the frames of chunks that did not come mean nothing.

        Raises:
            FormatError: behind the chunks there is none.
        """
        return await in_thread(self.threads, partial(Recipe.parse, self.text, MAX_RECIPE_BYTES, MAX_SEGMENTS))

    async def close(self) -> None:
        """Forget the chunks."""
        if self.writer is not None:
            await in_thread(self.threads, self.writer.close)


async def _pour(writer: SpoolWriter | None, threads: Threads, sent_bytes: int, portions: AsyncIterator[bytes]) -> bytes:
    """Write the chunks; returns what comes behind them."""
    behind, left = bytearray(), sent_bytes
    async for data in portions:
        if left:
            assert writer is not None
            await in_thread(threads, writer.write, data[:left])
        behind += data[left:]
        left -= min(left, len(data))
        if len(behind) > MAX_RECIPE_BYTES:
            raise PushTooLarge(f"recipes have {MAX_RECIPE_BYTES} bytes at the most: send this NAR whole")
    return bytes(behind)
