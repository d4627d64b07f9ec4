"""Keys whose earlier bytes are still being deleted: what is written under them waits, for a while."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from harmonia_py.catalog.nars import BeingDeleted
from harmonia_py.errors import PushConflict

# Deleting the bytes of a file normally takes less than a second; after ten the disk is in trouble.
_DELETION_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.1


async def once_deleted(write: Callable[[], Awaitable[None]]) -> None:
    """Call `write` until it does not raise `BeingDeleted` any more.

    Raises:
        PushConflict: that takes too long.
    """
    end = time.monotonic() + _DELETION_SECONDS
    while True:
        try:
            return await write()
        except BeingDeleted:
            if time.monotonic() > end:
                raise PushConflict("what was there before is still being deleted: run the same command again") from None
        await asyncio.sleep(_RETRY_SECONDS)
