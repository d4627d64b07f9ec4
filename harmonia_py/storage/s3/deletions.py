"""Deletions in a bucket: those that are asked for at the same time go with one request."""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.runtime.together import Together

# Names of one request are a thousand at most (DeleteObjects of S3), and a blob has two.
_MOST: Final = 500
# Deletions one after the other, when a request for many has failed: for a bucket that answers, and for no other.
_ONE_BY_ONE_SECONDS: Final = 60.0


class Deletions:
    """Deletes blobs.

    Args:
        remove: removes some, with one request.
    """

    def __init__(self, remove: Callable[[Sequence[BlobKey]], Awaitable[None]]) -> None:
        self._remove = remove
        self._together: Together[BlobKey, None] = Together(self._delete, most=_MOST)

    async def delete(self, key: BlobKey) -> None:
        """Remove a blob.

        Raises:
            StorageError: it may still be there.
        """
        await self._together.ask(key)

    async def aclose(self) -> None:
        """Wait until all that was asked for is done."""
        await self._together.aclose()

    async def _delete(self, keys: Sequence[BlobKey]) -> Sequence[StorageError | None]:
        try:
            await self._remove(keys)
        except StorageError as error:
            return await self._delete_one_by_one(keys, error)
        return [None] * len(keys)

    async def _delete_one_by_one(self, keys: Sequence[BlobKey], why: StorageError) -> Sequence[StorageError | None]:
        """After a request for many has failed: some servers do not know it, and one bad key keeps no other."""
        end = time.monotonic() + _ONE_BY_ONE_SECONDS
        errors: list[StorageError | None] = []
        for key in keys:
            try:
                if len(keys) == 1 or time.monotonic() > end:
                    raise why
                await self._remove([key])
            except StorageError as error:
                errors.append(error)
            else:
                errors.append(None)
        return errors
