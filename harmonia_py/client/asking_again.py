"""Questions to a server that answers only when a long work of its own is done."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

T = TypeVar("T")

# Beside the time that the server itself takes for an answer while it works.
_AGAIN_SECONDS: Final = 2.0


async def ask_again(ask: Callable[[], Awaitable[T | None]], times: int) -> T | None:
    """Ask until the answer is something that is true; None when so many questions had no such answer."""
    for _ in range(times):
        answer = await ask()
        if answer:
            return answer
        await asyncio.sleep(_AGAIN_SECONDS)
    return None
