"""Opening a file only if nothing of its path has to be read from the disk: openat2(2), by way of the C library.

A thread and back take the event loop fifty microseconds and more, and the kernel opens a file that it has in memory in
three. `RESOLVE_CACHED` (Linux 5.12) is its promise not to wait for the disk meanwhile.
"""

import ctypes
import errno
import os
import struct
from typing import Final

# It has this number on every architecture.
_OPENAT2: Final = 437
_AT_FDCWD: Final = -100
_RESOLVE_CACHED: Final = 0x20
# `struct open_how`: flags, mode, resolve.
_HOW: Final = struct.Struct("QQQ")
# Kernels that do not know it, and sandboxes that do not let it through.
_REFUSED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EPERM})


class CachedOpen:
    """Opens files for reading, without waiting."""

    def __init__(self) -> None:
        # Unlike `CDLL` it keeps the interpreter's lock: the call does not wait, and to get the lock back may take long.
        self._syscall = ctypes.PyDLL(None, use_errno=True).syscall
        self._how = _HOW.pack(os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0, _RESOLVE_CACHED)
        self._is_refused = False

    def open(self, path: str) -> int | None:
        """A descriptor of the file at `path`, which the caller closes.

        None says nothing: the file may not be there, or not in memory, or this kernel cannot tell.
        """
        if self._is_refused:
            return None
        fd: int = self._syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), self._how, _HOW.size)
        if fd >= 0:
            return fd
        self._is_refused = ctypes.get_errno() in _REFUSED
        return None
