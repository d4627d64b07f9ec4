"""Many blobs deleted, some at a time."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from harmonia_py.contents.blobs import BlobKey, BlobStore
from harmonia_py.errors import HarmoniaError

_log = logging.getLogger(__name__)

# Blobs that go at the same time, in one call in a thread, which has to end in time though all of them are large.
_AT_ONCE: Final = 250


async def delete_all(blobs: BlobStore, keys: Sequence[str]) -> set[str]:
    """Delete blobs; returns the keys that could not be deleted. A storage shares requests of deletions at one time."""
    failed = set()
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        found = await asyncio.gather(*(blobs.delete(BlobKey(key)) for key in some), return_exceptions=True)
        for key, error in zip(some, found, strict=True):
            if isinstance(error, HarmoniaError):
                _log.warning("cannot delete a file: %s", error)
                failed.add(key)
            elif error is not None:
                raise error
    return failed
