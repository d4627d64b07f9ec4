"""Settings of libc and of the interpreter with which a worker stays small, and answers before it computes."""

import asyncio
import ctypes
import sys
from contextlib import suppress
from typing import Final

# glibc's M_MMAP_THRESHOLD, and the size from which a freed block of memory goes back to the system.
_MMAP_THRESHOLD: Final = -3
_RETURNED_FROM_BYTES: Final = 1024 * 1024
# glibc's M_TRIM_THRESHOLD: so much unused memory stays at the end of an arena until `trim_memory` comes by. With the
# default, an eighth of a MiB once M_MMAP_THRESHOLD is set, the pieces of a download went back to the system one by one,
# and the kernel made the pages of each anew: a tenth of the processor time of a mirrored file.
_TRIM_THRESHOLD: Final = -1
_KEPT_BYTES: Final = 2 * 1024 * 1024
# glibc's M_ARENA_MAX. Each arena keeps a few pieces of a download; the threads that make them take turns anyway.
_ARENA_MAX: Final = -8
_ARENAS: Final = 2
# Python's default is five times as long. With ours a thread that computes loses a hundredth of its speed.
_SWITCH_SECONDS: Final = 0.001
# Often enough that a quiet server is small, seldom enough that a busy one does not notice.
_TRIM_SECONDS: Final = 10.0


def hand_over_often() -> None:
    """Give the event loop the interpreter's lock sooner, while threads make listings and pages."""
    # An answer takes some five turns of the loop, each of which may wait for so long for every thread that computes.
    sys.setswitchinterval(_SWITCH_SECONDS)


def return_memory() -> None:
    """Give the memory of a download or a compression back to the system as soon as it has ended."""
    # By default glibc keeps freed blocks, up to the size of the largest that was freed, 50 MiB and more, in each
    # thread.
    with suppress(AttributeError):  # musl has no such settings, and returns them anyway
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, _RETURNED_FROM_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_ARENA_MAX, _ARENAS)


async def trim_memory() -> None:
    """Now and then give unused memory between used blocks back to the system; it adds up over many downloads."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)
