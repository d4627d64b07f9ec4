"""Work for threads that must be done before what it works on is taken away."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def in_thread(threads: Executor, call: Callable[..., T], *arguments: object) -> T:
    """What `call` returns; a thread that is inside it is waited for also by who is cancelled, lest two be inside."""
    running = asyncio.get_running_loop().run_in_executor(threads, call, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
