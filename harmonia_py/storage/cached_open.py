"""Opening a file only if nothing of its path has to be read from the disk: openat2(2), by way of the C library.

A thread and back take the event loop fifty microseconds and more, and the kernel opens a file that it has in memory in
three. `RESOLVE_CACHED` (Linux 5.12) is its promise not to wait for the disk while it follows the path.

It promises nothing of what the file system does when the file is opened: NFS and FUSE ask their server each time. These
file systems do not tell what of a file is in memory (`can_tell`): where that is so, `CachedOpen` is not used.
"""

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Final

from harmonia_py.runtime.page_cache import says_what_is_cached

# It has this number on every architecture.
_OPENAT2: Final = 437
_AT_FDCWD: Final = -100
_RESOLVE_CACHED: Final = 0x20
# `struct open_how`: flags, mode, resolve.
_HOW: Final = struct.Struct("QQQ")
# Kernels that do not know it, and sandboxes that do not let it through.
_REFUSED: Final = frozenset({errno.ENOSYS, errno.EINVAL, errno.EPERM})


def can_tell(directory: Path) -> bool:
    """Whether the file system of `directory` tells what of a file is in memory. It may block.

    It is asked of a file without a name: False also where the directory takes none.
    """
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        return says_what_is_cached(fd)
    finally:
        os.close(fd)


class CachedOpen:
    """Opens files for reading, without waiting where the file system can tell (`can_tell`)."""

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
