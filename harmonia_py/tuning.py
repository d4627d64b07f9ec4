"""What a worker asks of libc and of the kernel, so that it stays small and answers before it computes."""

import asyncio
import ctypes
import os
from contextlib import suppress
from typing import Final

# glibc's M_MMAP_THRESHOLD, and from which size on a block of memory is to be one that the system gets back.
_MMAP_THRESHOLD: Final = -3
_RETURNED_FROM_BYTES: Final = 1024 * 1024
# glibc's M_ARENA_MAX. Each arena keeps a few pieces of a download; the threads that make them take turns anyway.
_ARENA_MAX: Final = -8
_ARENAS: Final = 2
# Often enough that a quiet server is small, seldom enough that a busy one does not notice.
_TRIM_SECONDS: Final = 10.0
# Compressing gives way to answering: this is added to the niceness of its threads.
_NICENESS: Final = 10


def return_memory() -> None:
    """Give back what a download or a compression needs for a moment, as soon as it has ended."""
    # Left alone, glibc keeps blocks as large as any that was ever freed, 50 MiB and more, for each thread anew.
    with suppress(AttributeError):  # musl has no such settings, and returns them anyway
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _RETURNED_FROM_BYTES)
        libc.mallopt(_ARENA_MAX, _ARENAS)


async def trim_memory() -> None:
    """Now and then give back what lies unused between blocks that are in use; it adds up over many downloads."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)


def give_way() -> None:
    """Let other threads go first."""
    # On Linux niceness belongs to a thread, whatever POSIX says.
    os.nice(_NICENESS)
