"""Work that goes on for as long as its process does."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

_log = logging.getLogger(__name__)

# Long enough that an error which comes at once fills no log.
_REST_SECONDS: Final = 10.0


async def lasting(work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` until it ends by itself, or the caller cancels it.

    An error that it does not expect is logged with its trace, and it begins anew after a rest. Otherwise the task would
    end without a word, and what it looks after would grow, or rot, until the next start.
    """
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001  # whatever it is
            _log.exception("work in the background failed, and begins anew in %.0f seconds", _REST_SECONDS)
        else:
            return
        await asyncio.sleep(_REST_SECONDS)
