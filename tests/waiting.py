"""Waiting for what another process, thread or task makes true."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

_SECONDS: Final = 30.0


def wait_until(condition: Callable[[], object], what: str = "", *, seconds: float = _SECONDS) -> None:
    """Return when the condition holds; after so many seconds `what` says what did not come to be."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


async def eventually(condition: Callable[[], object], what: str = "") -> None:
    """Return when the condition holds, letting other tasks go on meanwhile."""
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.005)
