"""Deletions in a bucket: those that are asked for at the same time go with one request."""

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from harmonia_py.contents.blobs import BlobKey
from harmonia_py.errors import StorageError
from harmonia_py.runtime.together import Together

# Names of one request are a thousand at most (DeleteObjects of S3), and a blob has two.
_MOST: Final = 500
# Deletions one after the other, when a request for many has failed: for a bucket that answers, and for no other.
_ONE_BY_ONE_SECONDS: Final = 60.0


Remove = Callable[[Sequence[BlobKey]], Awaitable[None]]
"""Removes blobs with one request. Raises `StorageError`: some may still be there."""


def deletions(remove: Remove) -> Together[BlobKey, None]:
    """Deletes each blob that it is asked for; an error says that this one may still be there."""
    return Together(partial(_delete, remove), most=_MOST)


async def _delete(remove: Remove, keys: Sequence[BlobKey]) -> Sequence[StorageError | None]:
    try:
        await remove(keys)
    except StorageError as error:
        return await _delete_one_by_one(remove, keys, error)
    return [None] * len(keys)


async def _delete_one_by_one(
    remove: Remove, keys: Sequence[BlobKey], why: StorageError
) -> Sequence[StorageError | None]:
    """After a request for many has failed: some servers do not know it, and one bad key keeps no other."""
    end = time.monotonic() + _ONE_BY_ONE_SECONDS
    errors: list[StorageError | None] = []
    for key in keys:
        try:
            if len(keys) == 1 or time.monotonic() > end:
                raise why
            await remove([key])
        except StorageError as error:
            errors.append(error)
        else:
            errors.append(None)
    return errors
